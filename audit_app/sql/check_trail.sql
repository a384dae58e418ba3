-- What is wrong with the trail as a whole: its tables, owners, grants, and what keeps it as it is.
--
--   expected   what its tables should be: {"columns": [{"table", "name", "type", "required"}],
--              "indexes": [{"table", "name", "columns"}], "functions": [names],
--              "partition_by": month, week or null}
--   horizon    how long a transaction may be open before it is named
DROP FUNCTION IF EXISTS @schema@.check_trail();
CREATE OR REPLACE FUNCTION @schema@.check_trail(
    expected jsonb DEFAULT '{"columns": [], "indexes": [], "functions": []}', horizon interval DEFAULT '1 hour'
)
RETURNS TABLE (code text, relation text, message text)
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH
    schema AS (
        SELECT n.oid, n.nspname AS name, n.nspowner AS owner, n.nspacl AS acl
        FROM pg_namespace AS n
        WHERE n.oid = '@schema@'::regnamespace
    ),
    trail AS (
        SELECT c.*, c.oid::regclass::text AS name
        FROM pg_class AS c
        WHERE c.relnamespace = '@schema@'::regnamespace AND c.relname IN ('activity', 'transaction') AND c.relkind IN ('r', 'p')
    ),
    -- The tables that hold the rows, besides: a statement may name each of them.
    part AS (
        SELECT t.* FROM trail AS t
        UNION ALL
        SELECT c.*, c.oid::regclass::text
        FROM @schema@.partitions() AS p
        JOIN pg_class AS c ON c.oid = p.relation
    ),
    object (kind, oid, name, owner, acl) AS (
        SELECT
            CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, c.oid, c.oid::regclass::text, c.relowner,
            coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner))
        FROM pg_class AS c
        WHERE c.relnamespace = '@schema@'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL
        SELECT 'table', a.attrelid, concat(a.attrelid::regclass, '.', quote_ident(a.attname)), c.relowner, a.attacl
        FROM pg_attribute AS a
        JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relnamespace = '@schema@'::regnamespace AND a.attacl IS NOT NULL
        UNION ALL
        SELECT 'function', p.oid, p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
        FROM pg_proc AS p
        WHERE p.pronamespace = '@schema@'::regnamespace
        UNION ALL
        SELECT 'schema', s.oid, s.name, s.owner, coalesce(s.acl, acldefault('n', s.owner))
        FROM schema AS s
    ),
    -- Of what will be made: in this schema, or by the trail's owner in any.
    default_acl AS (
        SELECT d.oid, d.defaclrole AS owner, d.defaclobjtype AS kind, a.grantee, a.privilege_type
        FROM schema AS s
        JOIN pg_default_acl AS d ON d.defaclnamespace = s.oid OR (d.defaclnamespace = 0 AND d.defaclrole = s.owner)
        CROSS JOIN LATERAL aclexplode(d.defaclacl) AS a
        WHERE d.defaclobjtype IN ('r', 'S', 'f')
          AND a.grantee <> d.defaclrole
          AND NOT (d.defaclobjtype = 'r' AND a.privilege_type = 'SELECT' AND a.grantee <> 0)
          -- A list for all schemas repeats what PostgreSQL grants by itself.
          AND NOT (d.defaclnamespace = 0 AND d.defaclobjtype = 'f' AND a.grantee = 0)
    ),
    wanted_column AS (
        SELECT t.oid, t.name AS relation, w.name, w.type, w.required
        FROM jsonb_to_recordset(expected -> 'columns') AS w ("table" text, name text, type text, required boolean)
        JOIN trail AS t ON t.relname = w.table
    ),
    wanted_index AS (
        SELECT t.oid, t.name AS relation, w.name, w.columns
        FROM jsonb_to_recordset(expected -> 'indexes') AS w ("table" text, name text, columns jsonb)
        JOIN trail AS t ON t.relname = w.table
    )
    SELECT
        'grant', o.name,
        concat(a.privilege_type, ' is granted to ', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END)
    FROM object AS o
    CROSS JOIN LATERAL aclexplode(o.acl) AS a
    WHERE a.grantee <> o.owner
      AND (
          a.grantee = 0
          OR (o.kind = 'table' AND a.privilege_type <> 'SELECT')
          OR o.kind = 'sequence'
          OR (o.kind = 'schema' AND a.privilege_type <> 'USAGE')
          -- Suspending, recording exports, pruning, holding, reading the past and making partitions may be
          -- granted; nothing else may.
          OR (o.kind = 'function' AND NOT o.oid IN (
              '@schema@.suspend(text)'::regprocedure, '@schema@.resume(bigint)'::regprocedure,
              '@schema@.keep_partitions()'::regprocedure,
              '@schema@.record_export(text,jsonb,bigint,text,bigint)'::regprocedure,
              '@schema@.as_of'::regproc, '@schema@.version_of'::regproc, '@schema@.known_since'::regproc,
              '@schema@.past_place'::regproc, '@schema@.past_query'::regproc, '@schema@.row_as'::regproc,
              '@schema@.under_present_names'::regproc, '@schema@.hstore_text'::regproc,
              '@schema@.object_id'::regproc, '@schema@.was_emptied'::regproc, '@schema@.pruned_before'::regproc,
              '@schema@.prune_floor'::regproc, '@schema@.holds'::regproc, '@schema@.prune_window'::regproc,
              '@schema@.prune_extent'::regproc, '@schema@.prune_preview'::regproc, '@schema@.archive_batch'::regproc,
              '@schema@.prune_batch'::regproc, '@schema@.prune_transactions'::regproc,
              '@schema@.prunable_partitions'::regproc, '@schema@.prune_partition'::regproc,
              '@schema@.prune_transaction_partition'::regproc,
              '@schema@.add_hold'::regproc, '@schema@.release_hold'::regproc
          ))
      )
    UNION ALL
    SELECT
        'default_acl', @schema_literal@,
        concat(
            d.privilege_type, ' on ',
            CASE d.kind WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' ELSE 'functions' END,
            ' that ', pg_get_userbyid(d.owner), ' makes will be granted to ',
            CASE d.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(d.grantee) END
        )
    FROM default_acl AS d
    UNION ALL
    -- The owner of the schema owns everything in it.
    SELECT 'owner', o.name, concat('belongs to ', pg_get_userbyid(o.owner), ' and not to the owner of the trail')
    FROM object AS o
    CROSS JOIN schema AS s
    LEFT JOIN pg_proc AS p ON o.kind = 'function' AND p.oid = o.oid
    WHERE o.owner <> s.owner
      AND NOT (o.kind = 'table' AND o.name <> o.oid::regclass::text)
      -- What captures is named with its table.
      AND NOT (o.kind = 'function' AND starts_with(p.proname, 'capture_') AND p.prorettype = 'trigger'::regtype)
    UNION ALL
    SELECT 'member', r.rolname, concat('may sign in, and is a member of ', pg_get_userbyid(s.owner), ', who owns the trail')
    FROM schema AS s
    CROSS JOIN pg_roles AS r
    WHERE r.rolcanlogin AND NOT r.rolsuper AND r.oid <> s.owner AND pg_has_role(r.oid, s.owner, 'MEMBER')
      -- Every role is a member of this one in its own database.
      AND pg_get_userbyid(s.owner) <> 'pg_database_owner'
    UNION ALL
    SELECT 'append_only', w.relation, 'can be rewritten: its trigger append_only is missing, off or altered'
    FROM (
        SELECT concat(@schema_literal@, '.', n.name), (SELECT t.oid FROM trail AS t WHERE t.relname = n.name)
        FROM (VALUES ('activity'), ('transaction')) AS n (name)
        UNION ALL
        SELECT p.relation::text, p.relation::oid FROM @schema@.partitions() AS p
    ) AS w (relation, oid)
    WHERE NOT @schema@.is_guarded(w.oid)
    UNION ALL
    SELECT 'foreign_trigger', t.name, concat('has a trigger that is not ours: ', g.tgname)
    FROM part AS t
    JOIN pg_trigger AS g ON g.tgrelid = t.oid
    WHERE NOT g.tgisinternal AND g.tgname <> 'append_only'
    UNION ALL
    SELECT 'rule', t.name, concat('has a rule, which can turn a write into another or into none: ', r.rulename)
    FROM part AS t
    JOIN pg_rewrite AS r ON r.ev_class = t.oid
    UNION ALL
    SELECT 'row_security', t.name, 'has row-level security, which hides rows from those who may read the trail'
    FROM part AS t
    WHERE t.relrowsecurity OR t.relforcerowsecurity
    UNION ALL
    SELECT 'unlogged', t.name, 'is unlogged: a crash of the server would empty it'
    FROM part AS t
    WHERE t.relpersistence <> 'p'
    UNION ALL
    SELECT
        'column', w.relation,
        CASE
            WHEN a.attname IS NULL THEN concat('has no column ', w.name)
            WHEN format_type(a.atttypid, NULL) <> w.type
            THEN concat('has the column ', w.name, ' as ', format_type(a.atttypid, NULL), ' and not as ', w.type)
            ELSE concat('has the column ', w.name, ', which may be NULL')
        END
    FROM wanted_column AS w
    LEFT JOIN pg_attribute AS a ON a.attrelid = w.oid AND a.attname = w.name AND NOT a.attisdropped
    WHERE a.attname IS NULL OR format_type(a.atttypid, NULL) <> w.type OR (w.required AND NOT a.attnotnull)
    UNION ALL
    SELECT
        'index', w.relation,
        concat('has no working index ', w.name, CASE WHEN NOT i.indisvalid THEN ': it was never finished' END)
    FROM wanted_index AS w
    LEFT JOIN pg_class AS c ON c.relname = w.name AND c.relnamespace = '@schema@'::regnamespace
    LEFT JOIN pg_index AS i ON i.indexrelid = c.oid AND i.indrelid = w.oid
    WHERE i.indexrelid IS NULL
       OR NOT i.indisvalid
       OR w.columns <> (
           SELECT jsonb_agg(a.attname ORDER BY k.ordinal)
           FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, ordinal)
           JOIN pg_attribute AS a ON a.attrelid = w.oid AND a.attnum = k.attnum
       )
    UNION ALL
    SELECT 'constraint', t.name, 'has no primary key over its id'
    FROM trail AS t
    WHERE NOT EXISTS (
        SELECT
        FROM pg_index AS i
        JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attname = 'id'
        WHERE i.indrelid = t.oid AND i.indisprimary AND i.indkey[0] = a.attnum
          -- A partitioned table's key holds the column of the partitions.
          AND (
              i.indnatts = 1
              OR t.relkind = 'p' AND i.indnatts = 2 AND i.indkey[1] = (
                  SELECT b.attnum FROM pg_attribute AS b WHERE b.attrelid = t.oid AND b.attname = 'issued_at'
              )
          )
    )
    UNION ALL
    SELECT 'constraint', t.name, 'does not number its rows by itself any more: its id is no identity'
    FROM trail AS t
    JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attname = 'id'
    WHERE a.attidentity <> 'a'
    UNION ALL
    SELECT 'constraint', t.name, concat('has a constraint that is not ours, and can fail a write: ', c.conname)
    FROM part AS t
    JOIN pg_constraint AS c ON c.conrelid = t.oid
    WHERE NOT c.contype IN ('p', 'n') AND c.conname <> concat(t.relname, '_bound')
    UNION ALL
    SELECT 'conversion', t.name, concat(
        'was not converted to partitions to the end, and writes fail when this is not true any more: ', pg_get_constraintdef(c.oid)
    )
    FROM trail AS t
    JOIN pg_constraint AS c ON c.conrelid = t.oid AND c.conname = concat(t.relname, '_bound')
    UNION ALL
    SELECT f.code, f.relation, f.message
    FROM @schema@.partition_faults(expected) AS f
    UNION ALL
    SELECT 'stranger', o.name, concat('is a ', o.kind, ' in the schema of the trail, and not a part of it')
    FROM object AS o
    LEFT JOIN pg_proc AS p ON o.kind = 'function' AND p.oid = o.oid
    WHERE CASE o.kind
        WHEN 'table' THEN NOT o.oid IN (SELECT t.oid FROM part AS t) AND NOT @schema@.is_copy(o.oid)
        WHEN 'function' THEN NOT (expected -> 'functions' ? p.proname::text OR starts_with(p.proname, 'capture_'))
        ELSE false
    END
    UNION ALL
    SELECT
        'session_default', coalesce(pg_get_userbyid(nullif(r.setrole, 0)), d.datname, 'all roles'),
        concat('begins its sessions with a context, and so with an actor, that nobody claimed: ', split_part(c.setting, '=', 1))
    FROM pg_db_role_setting AS r
    CROSS JOIN LATERAL unnest(r.setconfig) AS c (setting)
    LEFT JOIN pg_database AS d ON d.oid = r.setdatabase
    WHERE (r.setdatabase = 0 OR d.datname = current_database()) AND starts_with(lower(c.setting), 'audit_app.')
    UNION ALL
    SELECT
        'replica', coalesce(pg_get_userbyid(nullif(r.setrole, 0)), d.datname, 'all roles'),
        'has session_replication_role = replica set: foreign keys and ordinary triggers are off in its sessions'
    FROM pg_db_role_setting AS r
    CROSS JOIN LATERAL unnest(r.setconfig) AS c (setting)
    LEFT JOIN pg_database AS d ON d.oid = r.setdatabase
    WHERE (r.setdatabase = 0 OR d.datname = current_database()) AND lower(c.setting) = 'session_replication_role=replica'
    UNION ALL
    SELECT
        'transaction', concat('process ', a.pid),
        concat(
            'of ', a.usename, ' has had a transaction open since ', date_trunc('second', a.xact_start),
            ': what was written since is not known to be complete'
        )
    FROM pg_stat_activity AS a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
      AND a.backend_xid IS NOT NULL AND a.xact_start < now() - horizon
    UNION ALL
    SELECT
        'transaction', concat('prepared transaction ', quote_literal(x.gid)),
        concat(
            'of ', x.owner, ' has been waiting since ', date_trunc('second', x.prepared),
            ': what was written since is not known to be complete'
        )
    FROM pg_prepared_xacts AS x
    WHERE x.database = current_database() AND x.prepared < now() - horizon
    ORDER BY 1, 2, 3
$function$;
