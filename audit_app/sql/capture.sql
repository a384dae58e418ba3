-- The generator: from the live catalog to the statements that write the trail of one table.
--
-- It is used twice. audit_table() builds a table's capture function with it, so that the columns are
-- known to a cached plan; and that function itself falls back to it, executing the result at once,
-- when the table was altered behind its back.

-- The query for the shape of a table, as far as the generated statements depend on it: the names and
-- types of its columns. Part of each capture function, in which a call would cost more than the query.
CREATE OR REPLACE FUNCTION @schema@.fingerprint_query(relation text)
RETURNS text
LANGUAGE sql
IMMUTABLE
AS $function$
    -- Type numbers above 16383 are given out by each cluster anew, so those types go by name.
    SELECT concat(
        'SELECT string_agg(concat(quote_ident(a.attname), '' '', CASE WHEN a.atttypid < 16384 THEN a.atttypid::text',
        ' ELSE format_type(a.atttypid, NULL) END), '', '' ORDER BY a.attname)',
        ' FROM pg_attribute AS a WHERE a.attrelid = ', relation, ' AND a.attnum > 0 AND NOT a.attisdropped'
    )
$function$;

-- Is there a json anywhere inside of this type?
CREATE OR REPLACE FUNCTION @schema@.holds_json(type oid)
RETURNS boolean
LANGUAGE sql
STABLE
AS $function$
    WITH RECURSIVE part (oid) AS (
        SELECT type
        UNION
        SELECT inner_type.oid
        FROM part
        JOIN pg_catalog.pg_type AS t ON t.oid = part.oid
        CROSS JOIN LATERAL (
            SELECT t.typbasetype WHERE t.typtype = 'd'
            UNION ALL
            SELECT t.typelem WHERE t.typcategory = 'A'
            UNION ALL
            SELECT a.atttypid
            FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
        ) AS inner_type (oid)
    )
    SELECT EXISTS (SELECT FROM part WHERE part.oid = 'pg_catalog.json'::regtype)
$function$;

-- A JSON object from names and expressions.
CREATE OR REPLACE FUNCTION @schema@.object_expression(names text[], expressions text[])
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN current_setting('server_version_num')::int >= 160000 THEN concat(
            'JSON_OBJECT(',
            string_agg(concat(quote_literal(f.name), ': ', f.expression), ', ' ORDER BY f.ordinal),
            ' NULL ON NULL RETURNING jsonb)'
        )
        ELSE concat(
            '(SELECT jsonb_object_agg(f.name, f.value) FROM (VALUES ',
            string_agg(
                concat('(', quote_literal(f.name), ', to_jsonb(', f.expression, '))'), ', ' ORDER BY f.ordinal
            ),
            ') AS f (name, value))'
        )
    END
    FROM unnest(names, expressions) WITH ORDINALITY AS f (name, expression, ordinal)
$function$;

-- The same with only the columns that differ between the rows o and n. "Differ" means to the last bit:
-- a type's own "=" takes 10 for 10.0, and json has none.
CREATE OR REPLACE FUNCTION @schema@.changes_expression(names text[], columns text[], expressions text[])
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        -- A column that did not change goes in under the empty name, which no column has, and out.
        WHEN current_setting('server_version_num')::int >= 160000 THEN concat(
            '(JSON_OBJECT(',
            string_agg(
                concat(
                    'CASE WHEN record_image_ne(ROW(o.', f.column, '), ROW(n.', f.column, ')) THEN ',
                    quote_literal(f.name), ' ELSE '''' END: ', f.expression
                ), ', ' ORDER BY f.ordinal
            ),
            ' NULL ON NULL RETURNING jsonb) - '''')'
        )
        ELSE concat(
            '(SELECT jsonb_object_agg(f.name, f.value) FROM (VALUES ',
            string_agg(
                concat(
                    '(record_image_ne(ROW(o.', f.column, '), ROW(n.', f.column, ')), ',
                    quote_literal(f.name), ', to_jsonb(', f.expression, '))'
                ), ', ' ORDER BY f.ordinal
            ),
            ') AS f (differs, name, value) WHERE f.differs)'
        )
    END
    FROM unnest(names, columns, expressions) WITH ORDINALITY AS f (name, "column", expression, ordinal)
$function$;

-- The same again, in two thirds of the time, for rows in which no value became NULL or a JSON null:
-- ABSENT ON NULL leaves both of them out. PostgreSQL 16 and later.
CREATE OR REPLACE FUNCTION @schema@.quick_changes_expression(names text[], columns text[], expressions text[])
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT concat(
        'JSON_OBJECT(',
        string_agg(
            concat(
                quote_literal(f.name), ': CASE WHEN record_image_ne(ROW(o.', f.column, '), ROW(n.', f.column,
                ')) THEN to_jsonb(', f.expression, ') END'
            ), ', ' ORDER BY f.ordinal
        ),
        ' ABSENT ON NULL RETURNING jsonb)'
    )
    FROM unnest(names, columns, expressions) WITH ORDINALITY AS f (name, "column", expression, ordinal)
$function$;

-- A text type without a bound of its own.
CREATE OR REPLACE FUNCTION @schema@.is_long_text(type oid, typmod int)
RETURNS boolean
LANGUAGE sql
STABLE
AS $function$
    SELECT t.typcategory = 'S' AND t.typlen = -1 AND typmod = -1
    FROM pg_catalog.pg_type AS t
    WHERE t.oid = type
$function$;

-- The stored form of one column, for a row whose values all have a size that JSON can hold.
CREATE OR REPLACE FUNCTION @schema@.value_expression(reference text, type oid)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN type = 'json'::regtype AND current_setting('server_version_num')::int >= 160000 THEN concat(
            'CASE WHEN pg_input_is_valid(', reference, '::text, ''jsonb'')',
            ' THEN to_jsonb(', reference, ') ELSE to_jsonb(', reference, '::text) END'
        )
        WHEN @schema@.holds_json(type) THEN concat('@schema@.jsonb_or_text(', reference, ')')
        ELSE reference
    END
$function$;

-- The size of a column that has no bound, in bytes of JSON; NULL for every other column.
CREATE OR REPLACE FUNCTION @schema@.size_expression(reference text, type oid, typmod int)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN @schema@.is_long_text(type, typmod) THEN concat('octet_length(', reference, '::text)')
        -- Written in hexadecimal.
        WHEN type = 'bytea'::regtype THEN concat('2 * octet_length(', reference, ')::bigint')
    END
$function$;

-- The stored form of a column without a bound, in a row where some value is too large.
CREATE OR REPLACE FUNCTION @schema@.large_expression(reference text, type oid, size text, byte_limit bigint)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT concat(
        'CASE WHEN ', size, ' > ', byte_limit, ' THEN @schema@.large_value(',
        CASE
            WHEN type = 'bytea'::regtype THEN concat(reference, ', encode(substring(', reference, ' FROM 1 FOR 500), ''hex'')')
            ELSE concat('convert_to(', reference, '::text, ''UTF8''), left(', reference, '::text, 1000)')
        END,
        ') ELSE to_jsonb(', reference, ') END'
    )
$function$;

-- Is a value of this type a JSON document, which may be the JSON null?
CREATE OR REPLACE FUNCTION @schema@.is_json_document(type oid)
RETURNS boolean
LANGUAGE sql
STABLE
AS $function$
    WITH RECURSIVE base (oid) AS (
        SELECT type
        UNION ALL
        SELECT t.typbasetype
        FROM base
        JOIN pg_catalog.pg_type AS t ON t.oid = base.oid
        WHERE t.typtype = 'd'
    )
    SELECT EXISTS (SELECT FROM base WHERE base.oid IN ('json'::regtype, 'jsonb'::regtype))
$function$;

-- The identity of a row, over the derived table's alias.
CREATE OR REPLACE FUNCTION @schema@.key_expression(target oid, alias text)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    -- Only a text may be longer than an index entry can be.
    SELECT CASE
        WHEN count(*) = 0 THEN 'NULL::text'
        WHEN count(*) > 1 THEN concat(
            '@schema@.object_id(jsonb_build_array(',
            string_agg(concat(alias, '.c', a.attnum, '::text'), ', ' ORDER BY k.ordinal),
            ')::text)'
        )
        WHEN bool_or(t.typlen = -1 AND t.typcategory <> 'N') THEN concat(
            '@schema@.object_id(', alias, '.c', max(a.attnum), '::text)'
        )
        ELSE concat(alias, '.c', max(a.attnum), '::text')
    END
    FROM pg_catalog.pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, ordinal)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    WHERE i.indrelid = target AND i.indisprimary
$function$;

-- The INSERT that records what a statement did.
--
--   operation   'INSERT', 'UPDATE', 'DELETE', or 'UPDATE BY KEY' for updates whose old and new rows
--               do not come in pairs
--   excluded    names of the columns that must never be stored
--   installed   {name: attnum} of the columns when the function was made; NULL means now
--   relid, schema_name, table_name   expressions for what to record
CREATE OR REPLACE FUNCTION @schema@.capture_statement(
    target oid, operation text, excluded text[], installed jsonb,
    relid text, schema_name text, table_name text
)
RETURNS text
LANGUAGE plpgsql
STABLE
AS $function$
#variable_conflict use_variable
DECLARE
    _columns text;       -- the derived table's: every column under a name that cannot collide
    _old text;           -- the stored documents
    _new text;
    _changed text;
    _differs text;
    _old_key text := @schema@.key_expression(target, 'o');
    _new_key text := @schema@.key_expression(target, 'n');
    _row_key text := @schema@.key_expression(target, 'r');
    _head text;
BEGIN
    WITH live AS (
        SELECT
            a.attname,
            a.attnum,
            a.atttypid,
            a.atttypmod,
            a.attgenerated,
            -- A hand-made rename must not let an excluded column in under its new name. A column
            -- that was not there at installation is taken for the renamed one if it stands at its
            -- place, or if the places were dealt out anew (a restored dump does that).
            a.attname = ANY (excluded)
            OR (
                installed IS NOT NULL
                AND NOT installed ? a.attname::text
                AND EXISTS (
                    SELECT
                    FROM unnest(excluded) AS e (name)
                    WHERE NOT EXISTS (
                        SELECT
                        FROM pg_attribute AS x
                        WHERE x.attrelid = target AND x.attname = e.name AND NOT x.attisdropped
                    )
                    AND (
                        (installed ->> e.name)::int = a.attnum
                        OR EXISTS (
                            SELECT
                            FROM pg_attribute AS x
                            WHERE x.attrelid = target
                              AND NOT x.attisdropped
                              AND x.attnum <> (installed ->> x.attname::text)::int
                        )
                    )
                )
            ) AS is_excluded
        FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
    ),
    -- The old and the new row, under the aliases of the generated statements.
    valued AS (
        SELECT
            side.alias,
            l.attname::text AS name,
            concat('c', l.attnum) AS column,
            concat(side.alias, '.c', l.attnum) AS reference,
            l.attnum,
            l.atttypid AS type,
            @schema@.value_expression(concat(side.alias, '.c', l.attnum), l.atttypid) AS value,
            @schema@.size_expression(concat(side.alias, '.c', l.attnum), l.atttypid, l.atttypmod) AS size
        FROM live AS l
        CROSS JOIN (VALUES ('o'), ('n')) AS side (alias)
        -- A virtual column has no value in a trigger (it reads NULL), and follows from the others.
        WHERE NOT l.is_excluded AND l.attgenerated <> 'v'
    ),
    -- All values of a row share one document of 256 MB.
    bounded AS (
        SELECT v.*, 200000000 / greatest(1, count(v.size) OVER (PARTITION BY v.alias)) AS byte_limit
        FROM valued AS v
    ),
    sides AS (
        SELECT
            b.alias,
            array_agg(b.name ORDER BY b.attnum) AS names,
            array_agg(b.column ORDER BY b.attnum) AS columns,
            array_agg(b.value ORDER BY b.attnum) AS quick,
            array_agg(
                CASE
                    WHEN b.size IS NULL THEN b.value
                    ELSE @schema@.large_expression(b.reference, b.type, b.size, b.byte_limit)
                END ORDER BY b.attnum
            ) AS careful,
            string_agg(b.reference, ', ' ORDER BY b.attnum) AS list,
            CASE
                WHEN count(b.size) = 0 THEN 'false'
                ELSE concat('greatest(', string_agg(b.size, ', ' ORDER BY b.attnum), ') > ', max(b.byte_limit))
            END AS is_large,
            string_agg(
                concat(
                    ' OR (n.', b.column, ' IS NULL AND o.', b.column, ' IS NOT NULL)',
                    CASE WHEN @schema@.is_json_document(b.type) THEN concat(' OR to_jsonb(', b.value, ') = ''null''::jsonb') END
                ), '' ORDER BY b.attnum
            ) AS is_nulled
        FROM bounded AS b
        GROUP BY b.alias
    ),
    documents AS (
        SELECT
            s.alias,
            s.list,
            CASE s.is_large
                WHEN 'false' THEN @schema@.object_expression(s.names, s.quick)
                ELSE concat(
                    'CASE WHEN ', s.is_large, ' THEN ', @schema@.object_expression(s.names, s.careful),
                    ' ELSE ', @schema@.object_expression(s.names, s.quick), ' END'
                )
            END AS whole,
            CASE
                WHEN current_setting('server_version_num')::int >= 160000 THEN concat(
                    'CASE WHEN ', s.is_large, s.is_nulled,
                    ' THEN ', @schema@.changes_expression(s.names, s.columns, s.careful),
                    ' ELSE ', @schema@.quick_changes_expression(s.names, s.columns, s.quick), ' END'
                )
                ELSE @schema@.changes_expression(s.names, s.columns, s.careful)
            END AS changes
        FROM sides AS s
    )
    SELECT
        max(d.whole) FILTER (WHERE d.alias = 'o'),
        max(d.whole) FILTER (WHERE d.alias = 'n'),
        max(d.changes) FILTER (WHERE d.alias = 'n'),
        concat(
            'record_image_ne(ROW(', max(d.list) FILTER (WHERE d.alias = 'o'),
            '), ROW(', max(d.list) FILTER (WHERE d.alias = 'n'), '))'
        )
    INTO _old, _new, _changed, _differs
    FROM documents AS d;

    SELECT string_agg(concat('r.', quote_ident(a.attname), ' AS c', a.attnum), ', ' ORDER BY a.attnum)
    INTO _columns
    FROM pg_attribute AS a
    WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped;

    -- transaction_id() stands in a sub-select, so that it is called once, and not at all for a
    -- statement that changed nothing.
    _head := concat(
        'INSERT INTO @schema@.activity (transaction_id, native_transaction_id, issued_at, relid, depth,',
        ' schema_name, table_name, verb, object_id, new_object_id, old_data, changed_data)',
        E'\nSELECT (SELECT @schema@.transaction_id()), pg_current_xact_id(), statement_timestamp(), ',
        relid, ', pg_trigger_depth(), ', schema_name, ', ', table_name, ', '
    );

    RETURN CASE operation
        WHEN 'INSERT' THEN concat(
            _head, '''insert'', ', _new_key, ', NULL, NULL, ',
            _new,
            E'\nFROM (SELECT ', _columns, ' FROM new_table AS r) AS n'
        )
        WHEN 'DELETE' THEN concat(
            _head, '''delete'', ', _old_key, ', NULL, ',
            _old,
            E', NULL\nFROM (SELECT ', _columns, ' FROM old_table AS r) AS o'
        )
        -- Old and new rows pair by their position. A FULL JOIN, because the plan of an inner join,
        -- made when the session updated single rows, is quadratic for the next bulk update.
        WHEN 'UPDATE' THEN concat(
            _head, '''update'', ', _old_key,
            ', nullif(', _new_key, ', ', _old_key, '), ',
            _old, ', ',
            _changed,
            E'\nFROM (SELECT ', _columns, ', row_number() OVER () AS ordinal FROM old_table AS r) AS o',
            E'\nFULL JOIN (SELECT ', _columns, ', row_number() OVER () AS ordinal FROM new_table AS r) AS n',
            E' USING (ordinal)\nWHERE ', _differs
        )
        -- Rows that went to another partition, some of them stopped on the way by a trigger: what
        -- has no partner was deleted or inserted.
        WHEN 'UPDATE BY KEY' THEN concat(
            _head, 'CASE WHEN n.ordinal IS NULL THEN ''delete'' WHEN o.ordinal IS NULL THEN ''insert'' ELSE ''update'' END, ',
            'object_id, NULL, ',
            'CASE WHEN o.ordinal IS NOT NULL THEN ', _old, ' END, ',
            'CASE WHEN o.ordinal IS NULL THEN ', _new,
            ' WHEN n.ordinal IS NOT NULL THEN ', _changed, ' END',
            E'\nFROM (SELECT r.*, ', _row_key, ' AS object_id FROM (SELECT ', _columns, ', row_number() OVER () AS ordinal FROM old_table AS r) AS r) AS o',
            E'\nFULL JOIN (SELECT r.*, ', _row_key, ' AS object_id FROM (SELECT ', _columns, ', row_number() OVER () AS ordinal FROM new_table AS r) AS r) AS n',
            E' USING (object_id)\nWHERE o.ordinal IS NULL OR n.ordinal IS NULL OR ', _differs
        )
    END;
END
$function$;

-- The body of a table's capture function.
CREATE OR REPLACE FUNCTION @schema@.capture_body(target oid, excluded text[])
RETURNS text
LANGUAGE plpgsql
STABLE
AS $function$
#variable_conflict use_variable
DECLARE
    _installed jsonb := (
        SELECT jsonb_object_agg(a.attname, a.attnum ORDER BY a.attname)
        FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
    );
    _is_partitioned boolean := (SELECT c.relkind = 'p' FROM pg_class AS c WHERE c.oid = target);
    _fingerprint text;
BEGIN
    EXECUTE @schema@.fingerprint_query(target::text) INTO _fingerprint;
    RETURN concat(
        E'
-- Made by audit_table(); it replaces this whenever the table is audited again.
#variable_conflict use_column
DECLARE
    _excluded constant text[] := ', quote_literal(excluded::text), E';
    _installed constant jsonb := ', quote_literal(_installed::text), E';
    _schema_name constant text := ', CASE WHEN _is_partitioned THEN quote_literal((SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = target)) ELSE 'TG_TABLE_SCHEMA' END, E';
    _table_name constant text := ', CASE WHEN _is_partitioned THEN quote_literal((SELECT c.relname FROM pg_class AS c WHERE c.oid = target)) ELSE 'TG_TABLE_NAME' END, E';
    _operation text := TG_OP;
BEGIN
    IF coalesce(current_setting(''audit_app.suspension'', true), '''') <> '''' AND @schema@.is_suspended() THEN
        RETURN NULL;
    END IF;
    IF _operation = ''TRUNCATE'' THEN
        PERFORM @schema@.capture_truncate(TG_RELID, _schema_name, _table_name);
        RETURN NULL;
    END IF;
',
        CASE WHEN _is_partitioned THEN E'    -- A row that a trigger stopped on its way to another partition leaves an old row without a new one.
    IF _operation = ''UPDATE'' THEN
        IF (SELECT count(*) FROM old_table) <> (SELECT count(*) FROM new_table) THEN
            _operation := ''UPDATE BY KEY'';
        END IF;
    END IF;
' END,
        E'    -- Altered by hand? Then with the columns as they are now; the trail stays whole.
    IF (', @schema@.fingerprint_query('TG_RELID'), E')
        IS DISTINCT FROM ', quote_literal(_fingerprint), E' THEN
        EXECUTE @schema@.capture_statement(TG_RELID, _operation, _excluded, _installed, ''$1'', ''$2'', ''$3'')
        USING TG_RELID, _schema_name, _table_name;
        RETURN NULL;
    END IF;
    CASE _operation
    WHEN ''INSERT'' THEN
', @schema@.capture_statement(target, 'INSERT', excluded, NULL, 'TG_RELID', '_schema_name', '_table_name'), E';
    WHEN ''UPDATE'' THEN
', @schema@.capture_statement(target, 'UPDATE', excluded, NULL, 'TG_RELID', '_schema_name', '_table_name'), E';
    WHEN ''DELETE'' THEN
', @schema@.capture_statement(target, 'DELETE', excluded, NULL, 'TG_RELID', '_schema_name', '_table_name'), E';
',
        CASE WHEN _is_partitioned THEN concat(
            E'    WHEN ''UPDATE BY KEY'' THEN\n',
            @schema@.capture_statement(target, 'UPDATE BY KEY', excluded, NULL, 'TG_RELID', '_schema_name', '_table_name'), E';\n'
        ) END,
        E'    END CASE;
    RETURN NULL;
END
'
    );
END
$function$;

-- A truncation is one activity for each table, with the number of rows where that is cheap to say.
CREATE OR REPLACE FUNCTION @schema@.capture_truncate(target oid, schema_name text, table_name text)
RETURNS void
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
DECLARE
    _root oid := coalesce(pg_partition_root(target), target);
    _rows bigint;
    _bytes bigint := (
        SELECT sum(pg_relation_size(p.relid)) FROM pg_partition_tree(target) AS p
    );
    _readable boolean := has_table_privilege(target, 'SELECT')
        AND NOT row_security_active(target);
BEGIN
    -- TRUNCATE of a partitioned table fires the partitions' triggers too, after its own.
    IF _root <> target AND EXISTS (
        SELECT
        FROM @schema@.activity AS a
        WHERE a.transaction_id = @schema@.transaction_id()
          AND a.verb = 'truncate'
          AND a.relid = _root
          AND a.issued_at = statement_timestamp()
    ) THEN
        RETURN;
    END IF;
    IF coalesce(_bytes, pg_relation_size(target)) <= 8388608 AND _readable THEN
        EXECUTE concat('SELECT count(*) FROM ', target::regclass) INTO _rows;
    END IF;
    INSERT INTO @schema@.activity (
        transaction_id, native_transaction_id, issued_at, relid, depth,
        schema_name, table_name, verb, old_data
    ) VALUES (
        @schema@.transaction_id(), pg_current_xact_id(), statement_timestamp(), target, pg_trigger_depth(),
        schema_name, table_name, 'truncate',
        CASE
            WHEN _rows IS NOT NULL THEN jsonb_build_object('rows', _rows)
            ELSE jsonb_build_object('rows_estimated', pg_stat_get_live_tuples(target))
        END
    );
END
$function$;
