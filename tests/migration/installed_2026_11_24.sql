-- The trail as it was installed on 24 November 2026. Frozen: never change it.
-- Nobody but the owner may look into the trail until somebody grants it.
CREATE SCHEMA IF NOT EXISTS "audit";
REVOKE ALL ON SCHEMA "audit" FROM PUBLIC;
-- Refuse to install into a schema that somebody else has prepared: who owns the schema, or a table or a
-- function in it, could rewrite the trail at will.
DO $do$
DECLARE
    _schema record;
    _foreign text;
BEGIN
    SELECT n.oid, n.nspowner, o.rolcanlogin, o.rolname
    INTO _schema
    FROM pg_catalog.pg_namespace AS n
    JOIN pg_catalog.pg_roles AS o ON o.oid = n.nspowner
    WHERE n.nspname = 'audit';
    -- Ours, or that of a role without login which we are a member of.
    IF _schema.rolname <> current_user
        AND (_schema.rolcanlogin OR NOT pg_catalog.pg_has_role(current_user, _schema.nspowner, 'MEMBER'))
    THEN
        RAISE duplicate_object USING
            MESSAGE = pg_catalog.concat('the schema ', 'audit', ' belongs to the role ', _schema.rolname),
            HINT = 'Drop it, or ALTER SCHEMA … OWNER TO the role that installs; nothing was changed.';
    END IF;
    SELECT found.name INTO _foreign
    FROM (
        SELECT c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner, c.relnamespace
        FROM pg_catalog.pg_class AS c
        UNION ALL
        SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text, p.proowner, p.pronamespace
        FROM pg_catalog.pg_proc AS p
    ) AS found (name, owner, namespace)
    JOIN pg_catalog.pg_roles AS o ON o.oid = found.owner
    WHERE found.namespace = _schema.oid AND found.owner <> _schema.nspowner AND o.rolname <> current_user
    LIMIT 1;
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = pg_catalog.concat(_foreign, ' belongs to somebody else than the schema ', 'audit'),
            HINT = 'Drop it, or give it to the owner of the schema; nothing was changed.';
    END IF;
END
$do$;
CREATE TABLE IF NOT EXISTS audit.transaction (
	id BIGINT GENERATED ALWAYS AS IDENTITY, 
	native_transaction_id XID8 NOT NULL, 
	issued_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	actor_id TEXT, 
	actor_label TEXT, 
	client_addr INET, 
	session_user_name TEXT NOT NULL, 
	role_name TEXT NOT NULL, 
	application_name TEXT, 
	request_id TEXT, 
	method TEXT, 
	url TEXT, 
	reason TEXT, 
	metadata JSONB, 
	PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS transaction_actor_idx ON audit.transaction (actor_id, issued_at, id);
CREATE INDEX IF NOT EXISTS transaction_issued_at_idx ON audit.transaction (issued_at, id);
CREATE TABLE IF NOT EXISTS audit.activity (
	id BIGINT GENERATED ALWAYS AS IDENTITY, 
	transaction_id BIGINT NOT NULL, 
	native_transaction_id XID8 NOT NULL, 
	issued_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	relid OID NOT NULL, 
	depth SMALLINT NOT NULL, 
	schema_name TEXT NOT NULL, 
	table_name TEXT NOT NULL, 
	verb TEXT NOT NULL, 
	object_id TEXT, 
	new_object_id TEXT, 
	old_data JSONB, 
	changed_data JSONB, 
	query_text TEXT, 
	PRIMARY KEY (id)
);
CREATE INDEX IF NOT EXISTS activity_new_object_idx ON audit.activity (new_object_id, table_name, id) WHERE new_object_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS activity_object_idx ON audit.activity (object_id, table_name, id);
CREATE INDEX IF NOT EXISTS activity_transaction_idx ON audit.activity (transaction_id, id);
-- The document with one key renamed; every other document, {} and NULL included, unchanged.
CREATE OR REPLACE FUNCTION "audit".jsonb_change_key_name(data jsonb, old_key text, new_key text)
RETURNS jsonb
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN data OPERATOR(pg_catalog.?) old_key AND old_key OPERATOR(pg_catalog.<>) new_key THEN
            (data OPERATOR(pg_catalog.-) old_key)
            OPERATOR(pg_catalog.||)
            pg_catalog.jsonb_build_object(new_key, data OPERATOR(pg_catalog.->) old_key)
        ELSE data
    END;
END;

-- How values enter the trail where to_jsonb alone would fail or lose something. None of these
-- needs a search_path: every name in them is qualified, and they run as whoever calls them.

-- What is stored in place of a value that is too large for a jsonb document (256 MB in all).
CREATE OR REPLACE FUNCTION "audit".large_value(value bytea, beginning text)
RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN pg_catalog.jsonb_build_object(
        '$audit', 'too large',
        'bytes', pg_catalog.octet_length(value),
        'sha256', pg_catalog.encode(pg_catalog.sha256(value), 'hex'),
        'beginning', beginning
    );
END
$function$;

-- A json value may hold what jsonb cannot (\u0000, a number of 200,000 digits), also deep inside of
-- an array or a composite type. Such a value is kept as its text.
CREATE OR REPLACE FUNCTION "audit".jsonb_or_text(value anyelement)
RETURNS jsonb
LANGUAGE plpgsql
STABLE
AS $function$
BEGIN
    RETURN pg_catalog.to_jsonb(value);
EXCEPTION
    WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
        RETURN pg_catalog.to_jsonb(value::pg_catalog.text);
END
$function$;

-- A key that is longer than an index entry may be is stored by its beginning and its digest.
CREATE OR REPLACE FUNCTION "audit".object_id(key text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    IF pg_catalog.octet_length(key) OPERATOR(pg_catalog.<=) 1000 THEN
        RETURN key;
    END IF;
    RETURN pg_catalog.concat(
        pg_catalog.left(key, 100),
        '… sha256=',
        pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(key, 'UTF8')), 'hex')
    );
END
$function$;

-- The row of "audit".transaction for this database transaction and the present context, made at
-- the first change. Called by the capture functions only, which fix the search_path.
CREATE OR REPLACE FUNCTION "audit".transaction_id()
RETURNS bigint
LANGUAGE plpgsql
AS $function$
DECLARE
    -- Any role can set these two, to anything. The context is a claim; the memo saves a search.
    _context text := coalesce(pg_catalog.current_setting('audit_app.context', true), '');
    _memo text := coalesce(pg_catalog.current_setting('audit_app.transaction', true), '');
    _id bigint;
    _claims jsonb;
    _client_addr inet;
BEGIN
    -- The memo is "<id> <context>". It is believed only if the row it names was made by this very
    -- transaction: ids repeat in a restored cluster, so the number alone would not do.
    IF _memo ~ '^[0-9]{1,18} ' AND substr(_memo, strpos(_memo, ' ') + 1) = _context THEN
        SELECT t.id INTO _id
        FROM "audit".transaction AS t
        WHERE t.id = split_part(_memo, ' ', 1)::bigint
          AND t.native_transaction_id = pg_catalog.pg_current_xact_id()
          AND t.issued_at = pg_catalog.transaction_timestamp();
        IF FOUND THEN
            RETURN _id;
        END IF;
    END IF;

    IF _context <> '' THEN
        BEGIN
            _claims := _context::jsonb;
            IF jsonb_typeof(_claims) <> 'object' THEN
                RAISE data_exception;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            -- Whoever set garbage must neither break the write nor hide that it was garbage.
            _claims := jsonb_build_object('metadata', jsonb_build_object('invalid_context', left(_context, 1000)));
        END;
        IF _claims ? 'client_addr' THEN
            BEGIN
                _client_addr := (_claims ->> 'client_addr')::inet;
            EXCEPTION WHEN OTHERS THEN
                _claims := jsonb_set(
                    _claims,
                    '{metadata}',
                    CASE jsonb_typeof(_claims -> 'metadata') WHEN 'object' THEN _claims -> 'metadata' ELSE '{}' END
                    || jsonb_build_object('client_addr', left(_claims ->> 'client_addr', 200))
                );
            END;
        END IF;
    END IF;

    INSERT INTO "audit".transaction (
        native_transaction_id, issued_at, actor_id, actor_label, client_addr,
        session_user_name, role_name, application_name,
        request_id, method, url, reason, metadata
    ) VALUES (
        pg_catalog.pg_current_xact_id(),
        pg_catalog.transaction_timestamp(),
        -- An index entry has a limit; an actor beyond it must not fail the write.
        left(_claims ->> 'actor_id', 500),
        left(_claims ->> 'actor_label', 500),
        _client_addr,
        session_user,
        -- current_user is the owner of the capture function here.
        coalesce(nullif(pg_catalog.current_setting('role', true), 'none'), session_user),
        nullif(pg_catalog.current_setting('application_name', true), ''),
        _claims ->> 'request_id',
        _claims ->> 'method',
        _claims ->> 'url',
        _claims ->> 'reason',
        _claims -> 'metadata'
    )
    RETURNING id INTO _id;

    PERFORM pg_catalog.set_config('audit_app.transaction', concat(_id, ' ', _context), true);
    RETURN _id;
END
$function$;

-- Suspending the capture. There is no setting that does it: a suspension is a row in the trail, and
-- the trail can be written only through these two functions, which must be granted.

CREATE OR REPLACE FUNCTION "audit".suspend(reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _id bigint;
BEGIN
    INSERT INTO "audit".activity (
        transaction_id, native_transaction_id, issued_at, relid, depth,
        schema_name, table_name, verb, changed_data
    ) VALUES (
        "audit".transaction_id(), pg_current_xact_id(), statement_timestamp(),
        '"audit".activity'::regclass, pg_trigger_depth(),
        'audit', 'activity', 'suspend', jsonb_strip_nulls(jsonb_build_object('reason', reason))
    )
    RETURNING id INTO _id;
    -- The stack of open suspensions, the innermost last. Worth nothing without the rows it names.
    PERFORM set_config(
        'audit_app.suspension',
        ltrim(concat(current_setting('audit_app.suspension', true), ' ', _id)),
        true
    );
    RETURN _id;
END
$function$;

CREATE OR REPLACE FUNCTION "audit".resume(suspension bigint)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _open text[] := string_to_array(coalesce(current_setting('audit_app.suspension', true), ''), ' ');
BEGIN
    -- After a commit inside the block there is nothing left to resume.
    IF NOT suspension::text = ANY (_open) THEN
        RETURN;
    END IF;
    INSERT INTO "audit".activity (
        transaction_id, native_transaction_id, issued_at, relid, depth,
        schema_name, table_name, verb, changed_data
    ) VALUES (
        "audit".transaction_id(), pg_current_xact_id(), statement_timestamp(),
        '"audit".activity'::regclass, pg_trigger_depth(),
        'audit', 'activity', 'resume', jsonb_build_object('suspension', suspension)
    );
    PERFORM set_config(
        'audit_app.suspension', array_to_string(array_remove(_open, suspension::text), ' '), true
    );
END
$function$;

-- Asked by the capture functions only where the setting is not empty.
CREATE OR REPLACE FUNCTION "audit".is_suspended()
RETURNS boolean
LANGUAGE plpgsql
STABLE
AS $function$
BEGIN
    RETURN EXISTS (
        SELECT
        FROM unnest(string_to_array(pg_catalog.current_setting('audit_app.suspension', true), ' ')) AS open (id)
        JOIN "audit".activity AS a
          ON a.id = CASE WHEN open.id ~ '^[0-9]{1,18}$' THEN open.id::bigint END
        JOIN "audit".transaction AS t ON t.id = a.transaction_id
        WHERE a.verb = 'suspend'
          AND a.native_transaction_id = pg_catalog.pg_current_xact_id()
          AND t.issued_at = pg_catalog.transaction_timestamp()
          AND NOT EXISTS (
              SELECT
              FROM "audit".activity AS r
              WHERE r.native_transaction_id = a.native_transaction_id
                AND r.id > a.id
                AND r.verb = 'resume'
                AND (r.changed_data ->> 'suspension') = a.id::text
          )
    );
END
$function$;

-- The generator: from the live catalog to the statements that write the trail of one table.
--
-- It is used twice. audit_table() builds a table's capture function with it, so that the columns are
-- known to a cached plan; and that function itself falls back to it, executing the result at once,
-- when the table was altered behind its back.

-- The query for the shape of a table, as far as the generated statements depend on it: the names and
-- types of its columns. Part of each capture function, in which a call would cost more than the query.
CREATE OR REPLACE FUNCTION "audit".fingerprint_query(relation text)
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
CREATE OR REPLACE FUNCTION "audit".holds_json(type oid)
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
CREATE OR REPLACE FUNCTION "audit".object_expression(names text[], expressions text[])
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
CREATE OR REPLACE FUNCTION "audit".changes_expression(names text[], columns text[], expressions text[])
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
CREATE OR REPLACE FUNCTION "audit".quick_changes_expression(names text[], columns text[], expressions text[])
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
CREATE OR REPLACE FUNCTION "audit".is_long_text(type oid, typmod int)
RETURNS boolean
LANGUAGE sql
STABLE
AS $function$
    SELECT t.typcategory = 'S' AND t.typlen = -1 AND typmod = -1
    FROM pg_catalog.pg_type AS t
    WHERE t.oid = type
$function$;

-- The stored form of one column, for a row whose values all have a size that JSON can hold.
CREATE OR REPLACE FUNCTION "audit".value_expression(reference text, type oid)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN type = 'json'::regtype AND current_setting('server_version_num')::int >= 160000 THEN concat(
            'CASE WHEN pg_input_is_valid(', reference, '::text, ''jsonb'')',
            ' THEN to_jsonb(', reference, ') ELSE to_jsonb(', reference, '::text) END'
        )
        WHEN "audit".holds_json(type) THEN concat('"audit".jsonb_or_text(', reference, ')')
        ELSE reference
    END
$function$;

-- The size of a column that has no bound, in bytes of JSON; NULL for every other column.
CREATE OR REPLACE FUNCTION "audit".size_expression(reference text, type oid, typmod int)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN "audit".is_long_text(type, typmod) THEN concat('octet_length(', reference, '::text)')
        -- Written in hexadecimal.
        WHEN type = 'bytea'::regtype THEN concat('2 * octet_length(', reference, ')::bigint')
    END
$function$;

-- The stored form of a column without a bound, in a row where some value is too large.
CREATE OR REPLACE FUNCTION "audit".large_expression(reference text, type oid, size text, byte_limit bigint)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT concat(
        'CASE WHEN ', size, ' > ', byte_limit, ' THEN "audit".large_value(',
        CASE
            WHEN type = 'bytea'::regtype THEN concat(reference, ', encode(substring(', reference, ' FROM 1 FOR 500), ''hex'')')
            ELSE concat('convert_to(', reference, '::text, ''UTF8''), left(', reference, '::text, 1000)')
        END,
        ') ELSE to_jsonb(', reference, ') END'
    )
$function$;

-- Is a value of this type a JSON document, which may be the JSON null?
CREATE OR REPLACE FUNCTION "audit".is_json_document(type oid)
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
CREATE OR REPLACE FUNCTION "audit".key_expression(target oid, alias text)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    -- Only a text may be longer than an index entry can be.
    SELECT CASE
        WHEN count(*) = 0 THEN 'NULL::text'
        WHEN count(*) > 1 THEN concat(
            '"audit".object_id(jsonb_build_array(',
            string_agg(concat(alias, '.c', a.attnum, '::text'), ', ' ORDER BY k.ordinal),
            ')::text)'
        )
        WHEN bool_or(t.typlen = -1 AND t.typcategory <> 'N') THEN concat(
            '"audit".object_id(', alias, '.c', max(a.attnum), '::text)'
        )
        ELSE concat(alias, '.c', max(a.attnum), '::text')
    END
    FROM pg_catalog.pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, ordinal)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    WHERE i.indrelid = target AND i.indisprimary
$function$;

-- The columns of a table with what the options say of them.
--
--   installed   {name: attnum} of the columns when the capture function was made; NULL means now
CREATE OR REPLACE FUNCTION "audit".captured_columns(target oid, options jsonb, installed jsonb)
RETURNS TABLE (name text, attnum int, type oid, typmod int, is_stored boolean, is_masked boolean)
LANGUAGE sql
STABLE
AS $function$
    WITH live AS (
        SELECT a.attname::text AS name, a.attnum::int, a.atttypid AS type, a.atttypmod AS typmod, a.attgenerated
        FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
    ),
    renumbered AS (
        SELECT EXISTS (
            SELECT FROM live AS l WHERE l.attnum <> (installed ->> l.name)::int
        ) AS "all"
    ),
    -- A hand-made rename must not let a protected column in under its new name. A column that was not
    -- there at installation is taken for the renamed one if it stands at its place, or if the places
    -- were dealt out anew (a restored dump does that).
    protected AS (
        SELECT l.name, bool_or(p.is_mask) AS is_mask, bool_or(NOT p.is_mask) AS is_exclude
        FROM live AS l
        CROSS JOIN renumbered
        JOIN (
            SELECT e.name, false AS is_mask FROM jsonb_array_elements_text(options -> 'exclude') AS e (name)
            UNION ALL
            SELECT e.name, true FROM jsonb_array_elements_text(options -> 'mask') AS e (name)
        ) AS p
          ON p.name = l.name
          OR (
              installed IS NOT NULL
              AND NOT installed ? l.name
              AND NOT p.name IN (SELECT other.name FROM live AS other)
              AND ((installed ->> p.name)::int = l.attnum OR renumbered."all")
          )
        GROUP BY l.name
    ),
    key AS (
        SELECT unnest(i.indkey)::int AS attnum
        FROM pg_catalog.pg_index AS i
        WHERE i.indrelid = target AND i.indisprimary
    )
    SELECT
        l.name,
        l.attnum,
        l.type,
        l.typmod,
        -- A virtual column has no value in a trigger (it reads NULL), and follows from the others.
        l.attgenerated <> 'v'
        AND NOT coalesce(p.is_exclude, false)
        AND (
            NOT options ? 'include'
            OR options -> 'include' ? l.name
            OR coalesce(p.is_mask, false)
            OR l.attnum IN (SELECT k.attnum FROM key AS k)
        ),
        coalesce(p.is_mask, false)
    FROM live AS l
    LEFT JOIN protected AS p ON p.name = l.name
$function$;

-- The condition of the option "when", as a filter over the rows o and n; empty without one.
--
-- Where the table was altered so that the condition no longer fits it, everything is recorded.
CREATE OR REPLACE FUNCTION "audit".condition_expression(target oid, operation text, options jsonb)
RETURNS text
LANGUAGE plpgsql
STABLE
AS $function$
#variable_conflict use_variable
DECLARE
    _nulls text;
    _old text;
    _new text;
BEGIN
    IF NOT options ? 'when' THEN
        RETURN '';
    END IF;
    SELECT
        string_agg(concat('NULL::', format_type(a.atttypid, a.atttypmod), ' AS ', quote_ident(a.attname)), ', ' ORDER BY a.attnum),
        string_agg(concat('o.c', a.attnum, ' AS ', quote_ident(a.attname)), ', ' ORDER BY a.attnum),
        string_agg(concat('n.c', a.attnum, ' AS ', quote_ident(a.attname)), ', ' ORDER BY a.attnum)
    INTO _nulls, _old, _new
    FROM pg_attribute AS a
    WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped;
    BEGIN
        EXECUTE concat(
            'SELECT FROM (SELECT ', _nulls, ') AS old, (SELECT ', _nulls, ') AS new WHERE (', options ->> 'when', ')'
        );
    EXCEPTION WHEN undefined_column OR undefined_function OR datatype_mismatch THEN
        RETURN '';
    END;
    RETURN concat(
        E'\nAND (SELECT (', options ->> 'when', ') FROM (SELECT ',
        CASE operation WHEN 'INSERT' THEN _nulls ELSE _old END, ') AS old, (SELECT ',
        CASE operation WHEN 'DELETE' THEN _nulls ELSE _new END, ') AS new)'
    );
END
$function$;

-- The INSERT that records what a statement did.
--
--   operation   'INSERT', 'UPDATE', 'DELETE', or 'UPDATE BY KEY' for updates whose old and new rows
--               do not come in pairs
--   installed   as for captured_columns
--   relid, schema_name, table_name   expressions for what to record
--   old_rows, new_rows   what stands in FROM for the rows
CREATE OR REPLACE FUNCTION "audit".capture_statement(
    target oid, operation text, options jsonb, installed jsonb,
    relid text, schema_name text, table_name text, old_rows text, new_rows text
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
    _condition text := "audit".condition_expression(target, operation, options);
    _old_key text := "audit".key_expression(target, 'o');
    _new_key text := "audit".key_expression(target, 'n');
    _row_key text := "audit".key_expression(target, 'r');
    _head text;
    _ordinal text := ', row_number() OVER () AS ordinal';
BEGIN
    WITH
    -- The old and the new row, under the aliases of the generated statements.
    valued AS (
        SELECT
            side.alias,
            l.name,
            concat('c', l.attnum) AS column,
            concat(side.alias, '.c', l.attnum) AS reference,
            l.attnum,
            l.type,
            CASE
                WHEN l.is_masked THEN '''{"$audit": "masked"}''::jsonb'
                ELSE "audit".value_expression(concat(side.alias, '.c', l.attnum), l.type)
            END AS value,
            CASE
                WHEN NOT l.is_masked THEN "audit".size_expression(concat(side.alias, '.c', l.attnum), l.type, l.typmod)
            END AS size
        FROM "audit".captured_columns(target, options, installed) AS l
        CROSS JOIN (VALUES ('o'), ('n')) AS side (alias)
        WHERE l.is_stored
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
                    ELSE "audit".large_expression(b.reference, b.type, b.size, b.byte_limit)
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
                    CASE WHEN "audit".is_json_document(b.type) THEN concat(' OR to_jsonb(', b.value, ') = ''null''::jsonb') END
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
                WHEN 'false' THEN "audit".object_expression(s.names, s.quick)
                ELSE concat(
                    'CASE WHEN ', s.is_large, ' THEN ', "audit".object_expression(s.names, s.careful),
                    ' ELSE ', "audit".object_expression(s.names, s.quick), ' END'
                )
            END AS whole,
            CASE
                WHEN current_setting('server_version_num')::int >= 160000 THEN concat(
                    'CASE WHEN ', s.is_large, s.is_nulled,
                    ' THEN ', "audit".changes_expression(s.names, s.columns, s.careful),
                    ' ELSE ', "audit".quick_changes_expression(s.names, s.columns, s.quick), ' END'
                )
                ELSE "audit".changes_expression(s.names, s.columns, s.careful)
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
        'INSERT INTO "audit".activity (transaction_id, native_transaction_id, issued_at, relid, depth,',
        ' query_text, schema_name, table_name, verb, object_id, new_object_id, old_data, changed_data)',
        E'\nSELECT (SELECT "audit".transaction_id()), pg_current_xact_id(), statement_timestamp(), ',
        relid, ', pg_trigger_depth(), ',
        CASE WHEN options @> '{"query_text": true}' THEN '(SELECT "audit".query_text())' ELSE 'NULL' END,
        ', ', schema_name, ', ', table_name, ', '
    );
    old_rows := concat('FROM ', old_rows, ' AS r');
    new_rows := concat('FROM ', new_rows, ' AS r');

    RETURN CASE operation
        WHEN 'INSERT' THEN concat(
            _head, '''insert'', ', _new_key, ', NULL, NULL, ', _new,
            E'\nFROM (SELECT ', _columns, ' ', new_rows, ') AS n',
            E'\nWHERE true' || nullif(_condition, '')
        )
        WHEN 'DELETE' THEN concat(
            _head, '''delete'', ', _old_key, ', NULL, ', _old, ', NULL',
            E'\nFROM (SELECT ', _columns, ' ', old_rows, ') AS o',
            E'\nWHERE true' || nullif(_condition, '')
        )
        -- Old and new rows pair by their position. A FULL JOIN, because the plan of an inner join,
        -- made when the session updated single rows, is quadratic for the next bulk update.
        WHEN 'UPDATE' THEN concat(
            _head, '''update'', ', _old_key, ', nullif(', _new_key, ', ', _old_key, '), ', _old, ', ', _changed,
            E'\nFROM (SELECT ', _columns, _ordinal, ' ', old_rows, ') AS o',
            E'\nFULL JOIN (SELECT ', _columns, _ordinal, ' ', new_rows, ') AS n USING (ordinal)',
            E'\nWHERE ', _differs, _condition
        )
        -- Rows that went to another partition, some of them stopped on the way by a trigger: what
        -- has no partner was deleted or inserted.
        WHEN 'UPDATE BY KEY' THEN concat(
            _head, 'CASE WHEN n.ordinal IS NULL THEN ''delete'' WHEN o.ordinal IS NULL THEN ''insert'' ELSE ''update'' END, ',
            'object_id, NULL, ',
            'CASE WHEN o.ordinal IS NOT NULL THEN ', _old, ' END, ',
            'CASE WHEN o.ordinal IS NULL THEN ', _new, ' WHEN n.ordinal IS NOT NULL THEN ', _changed, ' END',
            E'\nFROM (SELECT r.*, ', _row_key, ' AS object_id FROM (SELECT ', _columns, _ordinal, ' ', old_rows, ') AS r) AS o',
            E'\nFULL JOIN (SELECT r.*, ', _row_key, ' AS object_id FROM (SELECT ', _columns, _ordinal, ' ', new_rows, ') AS r) AS n',
            E' USING (object_id)\nWHERE (o.ordinal IS NULL OR n.ordinal IS NULL OR ', _differs, ')', _condition
        )
    END;
END
$function$;

-- The statement that was sent, without the context that came in the same message.
CREATE OR REPLACE FUNCTION "audit".query_text()
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT left(
        CASE
            WHEN starts_with(q.text, 'SELECT pg_catalog.set_config(''audit_app.context''')
                THEN substr(q.text, strpos(q.text, E';\n') + 2)
            ELSE q.text
        END,
        100000
    )
    FROM current_query() AS q (text)
$function$;

-- The trail could not be written, and the options say that the business write goes on.
CREATE OR REPLACE FUNCTION "audit".record_gap(
    relid oid, schema_name text, table_name text, operation text, error_state text, error_message text
)
RETURNS void
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
BEGIN
    INSERT INTO "audit".activity (
        transaction_id, native_transaction_id, issued_at, relid, depth, schema_name, table_name, verb, changed_data
    ) VALUES (
        "audit".transaction_id(), pg_current_xact_id(), statement_timestamp(), relid, pg_trigger_depth(),
        schema_name, table_name, 'gap',
        jsonb_build_object('operation', lower(operation), 'sqlstate', error_state, 'message', error_message)
    );
EXCEPTION WHEN OTHERS THEN
    -- Nothing can be written at all: the server's log is what remains.
    RAISE WARNING USING MESSAGE = concat(
        'audit trail: ', lower(operation), ' on ', schema_name, '.', table_name, ' was not recorded: ', error_message
    );
END
$function$;

-- The body of a table's capture function.
CREATE OR REPLACE FUNCTION "audit".capture_body(target oid, options jsonb)
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
    _is_row boolean := options @> '{"level": "row"}';
    _degrades boolean := options @> '{"on_error": "degrade"}';
    _is_partitioned boolean := (SELECT c.relkind = 'p' FROM pg_class AS c WHERE c.oid = target);
    _name record;
    _fingerprint text;
    _case text := '';
    _operation text;
BEGIN
    SELECT n.nspname AS schema, c.relname AS table INTO _name
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = target;
    EXECUTE "audit".fingerprint_query(target::text) INTO _fingerprint;
    FOREACH _operation IN ARRAY ARRAY['INSERT', 'UPDATE', 'DELETE', 'UPDATE BY KEY'] LOOP
        CONTINUE WHEN _operation = 'UPDATE BY KEY' AND (_is_row OR NOT _is_partitioned);
        _case := concat(
            _case, '    WHEN ', quote_literal(_operation), E' THEN\n',
            "audit".capture_statement(
                target, _operation, options, NULL, 'TG_RELID', '_schema_name', '_table_name',
                CASE WHEN _is_row THEN '(SELECT OLD.*)' ELSE 'old_table' END,
                CASE WHEN _is_row THEN '(SELECT NEW.*)' ELSE 'new_table' END
            ),
            E';\n'
        );
    END LOOP;

    RETURN concat(
        E'
-- Made by audit_table(), which makes it anew whenever the table is audited again.
#variable_conflict use_column
DECLARE
    _options constant jsonb := ', quote_literal(options::text), E';
    _installed constant jsonb := ', quote_literal(_installed::text), E';
    -- What happens in a partition is the history of the table that it is a part of.
    _schema_name constant text := ', CASE WHEN _is_partitioned THEN quote_literal(_name.schema) ELSE 'TG_TABLE_SCHEMA' END, E';
    _table_name constant text := ', CASE WHEN _is_partitioned THEN quote_literal(_name.table) ELSE 'TG_TABLE_NAME' END, E';
    _operation text := TG_OP;
BEGIN
    IF coalesce(current_setting(''audit_app.suspension'', true), '''') <> '''' AND "audit".is_suspended() THEN
        RETURN NULL;
    END IF;
    IF _operation = ''TRUNCATE'' THEN
        PERFORM "audit".capture_truncate(TG_RELID, _schema_name, _table_name);
        RETURN NULL;
    END IF;
',
        CASE WHEN _is_partitioned AND NOT _is_row THEN E'    -- A row that a trigger stopped on its way to another partition leaves an old row without a new one.
    IF _operation = ''UPDATE'' THEN
        IF (SELECT count(*) FROM old_table) <> (SELECT count(*) FROM new_table) THEN
            _operation := ''UPDATE BY KEY'';
        END IF;
    END IF;
' END,
        CASE WHEN _degrades THEN E'    BEGIN\n' END,
        E'    -- Altered by hand? Then with the columns as they are now; the trail stays whole.
    IF (', "audit".fingerprint_query('TG_RELID'), E')
        IS DISTINCT FROM ', quote_literal(_fingerprint), E' THEN
        EXECUTE "audit".capture_statement(
            TG_RELID, _operation, _options, _installed, ''$1'', ''$2'', ''$3'', ',
            CASE WHEN _is_row THEN '''(SELECT ($4).*)'', ''(SELECT ($5).*)''' ELSE '''old_table'', ''new_table''' END,
            E'
        ) USING TG_RELID, _schema_name, _table_name', CASE WHEN _is_row THEN ', OLD, NEW' END, E';
        RETURN NULL;
    END IF;
    CASE _operation
', _case, E'    END CASE;
',
        CASE WHEN _degrades THEN E'    EXCEPTION WHEN OTHERS THEN
        PERFORM "audit".record_gap(TG_RELID, _schema_name, _table_name, TG_OP, SQLSTATE, SQLERRM);
    END;
' END,
        E'    RETURN NULL;
END
'
    );
END
$function$;

-- A truncation is one activity for each table, with the number of rows where that is cheap to say.
CREATE OR REPLACE FUNCTION "audit".capture_truncate(target oid, schema_name text, table_name text)
RETURNS void
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
DECLARE
    _rows bigint;
    _bytes bigint := (
        SELECT sum(pg_relation_size(p.relid)) FROM pg_partition_tree(target) AS p
    );
    _readable boolean := has_table_privilege(target, 'SELECT')
        AND NOT row_security_active(target);
BEGIN
    -- TRUNCATE of a partitioned table fires the partitions' triggers too, after its own.
    IF EXISTS (
        SELECT
        FROM "audit".activity AS a
        WHERE a.transaction_id = "audit".transaction_id()
          AND a.verb = 'truncate'
          AND a.relid IN (
              SELECT above.relid FROM pg_partition_ancestors(target) AS above (relid) WHERE above.relid <> target
          )
          AND a.issued_at = statement_timestamp()
    ) THEN
        RETURN;
    END IF;
    IF coalesce(_bytes, pg_relation_size(target)) <= 8388608 AND _readable THEN
        EXECUTE concat('SELECT count(*) FROM ', target::regclass) INTO _rows;
    END IF;
    INSERT INTO "audit".activity (
        transaction_id, native_transaction_id, issued_at, relid, depth,
        schema_name, table_name, verb, old_data
    ) VALUES (
        "audit".transaction_id(), pg_current_xact_id(), statement_timestamp(), target, pg_trigger_depth(),
        schema_name, table_name, 'truncate',
        CASE
            WHEN _rows IS NOT NULL THEN jsonb_build_object('rows', _rows)
            ELSE jsonb_build_object('rows_estimated', pg_stat_get_live_tuples(target))
        END
    );
END
$function$;

-- Start to track a table, or bring its triggers up to date: safe to call again.
--
-- It works with the rights of its caller, who must own the table and be a member of the role that
-- owns the trail. The options:
--
--   exclude      names of columns that are never stored (the same as excluded_columns)
--   include      the only columns that are stored, besides the key
--   mask         names of columns whose values are replaced by a mark
--   when         an SQL condition over OLD and NEW; what it is not true for is not recorded
--   on           the verbs that are recorded, of insert, update, delete, truncate
--   level        statement (the default), or row, for tables that logical replication writes to
--   query_text   true: the text of the statement is stored with each change
--   on_error     strict (the default): a change that cannot be recorded fails; or degrade
DROP FUNCTION IF EXISTS "audit".audit_table(regclass, text[]);
CREATE OR REPLACE FUNCTION "audit".audit_table(
    target_table regclass, excluded_columns text[] DEFAULT '{}', options jsonb DEFAULT '{}'
)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _schema oid := '"audit"'::regnamespace;
    _owner text := (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace AS n WHERE n.oid = '"audit"'::regnamespace);
    _is_row boolean;
    _target record;
    _function text;
    _body text;
    _part regclass;
    _existing record;
    _is_wanted boolean;
    _verb text;
    _trigger text;
    _foreign text;
BEGIN
    SELECT c.oid, c.relname::text, n.nspname::text, c.relkind, c.relnamespace, c.relpersistence
    INTO _target
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = target_table;

    IF NOT _target.relkind IN ('r', 'p') OR _target.relpersistence = 't' THEN
        RAISE wrong_object_type USING
            MESSAGE = concat(target_table, ' is not a permanent table'),
            HINT = 'Only tables and partitioned tables can be tracked.';
    END IF;
    IF _target.relnamespace = _schema THEN
        RAISE invalid_parameter_value USING
            MESSAGE = concat(target_table, ' belongs to the audit trail itself'),
            HINT = 'Track your own tables.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = target_table AND i.indisprimary) THEN
        RAISE invalid_table_definition USING
            MESSAGE = concat(target_table, ' has no primary key, so its records cannot be told apart'),
            HINT = 'Add a primary key, then call audit_table again.';
    END IF;
    options := "audit".checked_options(target_table, jsonb_set(options, '{exclude}', (
        SELECT coalesce(jsonb_agg(DISTINCT e.name ORDER BY e.name), '[]')
        FROM (
            SELECT unnest(excluded_columns)
            UNION ALL
            SELECT jsonb_array_elements_text(options -> 'exclude')
        ) AS e (name)
    )));

    -- A trigger of ours that is somebody else's: theirs stays.
    SELECT t.tgname INTO _foreign
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid IN (SELECT target_table UNION SELECT p.relid FROM pg_partition_tree(target_table) AS p)
      AND t.tgname IN ('zzz_audit_insert', 'zzz_audit_update', 'zzz_audit_delete', 'zzz_audit_truncate')
      AND (p.pronamespace <> _schema OR NOT starts_with(p.proname, 'capture_'));
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = concat(target_table, ' has a trigger named ', _foreign, ' that is not ours'),
            HINT = 'Rename that trigger: ALTER TRIGGER … RENAME TO …; nothing was changed.';
    END IF;

    _function := "audit".capture_function_name(target_table);
    _body := "audit".capture_body(target_table, options);
    IF NOT EXISTS (
        SELECT FROM pg_proc AS p
        WHERE p.pronamespace = _schema AND p.proname = _function AND p.prosrc = _body
    ) THEN
        -- The output settings are fixed, so that a client's own do not change what is stored.
        EXECUTE concat(
            'CREATE OR REPLACE FUNCTION "audit".', quote_ident(_function), '() RETURNS trigger ',
            'LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp ',
            'SET "TimeZone" = ''UTC'' SET "DateStyle" = ''ISO, YMD'' SET "IntervalStyle" = ''postgres'' ',
            'SET bytea_output = ''hex'' SET extra_float_digits = 1 SET lc_monetary = ''C'' ',
            'AS ', quote_literal(_body)
        );
        EXECUTE concat('REVOKE ALL ON FUNCTION "audit".', quote_ident(_function), '() FROM PUBLIC');
        -- It writes with the rights of its owner, who is the owner of the trail.
        IF _owner <> current_user THEN
            EXECUTE concat('ALTER FUNCTION "audit".', quote_ident(_function), '() OWNER TO ', quote_ident(_owner));
        END IF;
        EXECUTE concat(
            'COMMENT ON FUNCTION "audit".', quote_ident(_function), '() IS ',
            quote_literal(jsonb_build_object('audit_app', jsonb_build_object(
                'table', target_table::text, 'options', options
            ))::text)
        );
    END IF;

    _is_row := options @> '{"level": "row"}';
    -- A write to a partition itself fires that partition's statement triggers only. Row triggers are
    -- handed on to the partitions by PostgreSQL.
    FOR _part IN
        SELECT target_table
        UNION
        SELECT p.relid FROM pg_partition_tree(target_table) AS p
        ORDER BY 1
    LOOP
        FOREACH _verb IN ARRAY ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'] LOOP
            _trigger := concat('zzz_audit_', lower(_verb));
            _is_wanted := NOT options ? 'on' OR options -> 'on' ? lower(_verb);
            SELECT
                p.pronamespace = _schema AND p.proname = _function AND t.tgenabled = 'A' AS is_current,
                (t.tgtype & 1 = 1) AS is_row,
                t.tgparentid <> 0 AS is_inherited
            INTO _existing
            FROM pg_trigger AS t
            JOIN pg_proc AS p ON p.oid = t.tgfoid
            WHERE t.tgrelid = _part AND t.tgname = _trigger;
            IF FOUND AND NOT _existing.is_inherited
                AND (NOT _is_wanted OR _existing.is_row <> (_is_row AND _verb <> 'TRUNCATE'))
            THEN
                EXECUTE concat('DROP TRIGGER ', _trigger, ' ON ', _part);
                _existing.is_current := false;
            END IF;
            CONTINUE WHEN NOT _is_wanted
                OR coalesce(_existing.is_current, false)
                OR (_is_row AND _verb <> 'TRUNCATE' AND _part <> target_table);
            EXECUTE concat(
                'CREATE OR REPLACE TRIGGER ', _trigger,
                CASE _verb WHEN 'TRUNCATE' THEN ' BEFORE ' ELSE ' AFTER ' END, _verb, ' ON ', _part,
                CASE
                    WHEN _is_row AND _verb <> 'TRUNCATE' THEN ' FOR EACH ROW'
                    WHEN _verb = 'INSERT' THEN ' REFERENCING NEW TABLE AS new_table FOR EACH STATEMENT'
                    WHEN _verb = 'UPDATE' THEN ' REFERENCING OLD TABLE AS old_table NEW TABLE AS new_table FOR EACH STATEMENT'
                    WHEN _verb = 'DELETE' THEN ' REFERENCING OLD TABLE AS old_table FOR EACH STATEMENT'
                    ELSE ' FOR EACH STATEMENT'
                END,
                ' EXECUTE FUNCTION "audit".', quote_ident(_function), '()'
            );
            -- ALWAYS: also for sessions that apply or restore with session_replication_role.
            EXECUTE concat('ALTER TABLE ', _part, ' ENABLE ALWAYS TRIGGER ', _trigger);
        END LOOP;
    END LOOP;
END
$function$;

-- The options in their canonical form; an error that names the table and the option if one is wrong.
CREATE OR REPLACE FUNCTION "audit".checked_options(target_table regclass, options jsonb)
RETURNS jsonb
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _option text;
    _column text;
    _value jsonb;
BEGIN
    FOR _option, _value IN SELECT o.key, o.value FROM jsonb_each(options) AS o LOOP
        IF NOT (CASE _option
            WHEN 'exclude' THEN jsonb_typeof(_value) = 'array'
            WHEN 'include' THEN jsonb_typeof(_value) = 'array'
            WHEN 'mask' THEN jsonb_typeof(_value) = 'array'
            WHEN 'when' THEN jsonb_typeof(_value) = 'string'
            WHEN 'on' THEN _value <@ '["insert", "update", "delete", "truncate"]' AND _value <> '[]'
            WHEN 'level' THEN _value IN ('"statement"', '"row"')
            WHEN 'query_text' THEN jsonb_typeof(_value) = 'boolean'
            WHEN 'on_error' THEN _value IN ('"strict"', '"degrade"')
            ELSE false
        END) THEN
            RAISE invalid_parameter_value USING
                MESSAGE = concat(target_table, ': the option ', _option, ' cannot be ', _value),
                HINT = 'See the comment on the function audit_table for the options and their values.';
        END IF;
    END LOOP;
    FOR _option, _column IN
        SELECT o.key, c.name
        FROM jsonb_each(options) AS o
        CROSS JOIN LATERAL jsonb_array_elements_text(o.value) AS c (name)
        WHERE o.key IN ('exclude', 'include', 'mask')
    LOOP
        IF NOT EXISTS (
            SELECT
            FROM pg_attribute AS a
            WHERE a.attrelid = target_table AND a.attname = _column AND a.attnum > 0 AND NOT a.attisdropped
        ) THEN
            RAISE undefined_column USING
                MESSAGE = concat(target_table, ' has no column ', quote_ident(_column), ' to ', _option),
                HINT = concat('Correct the name, or leave it out of ', _option, '.');
        END IF;
    END LOOP;
    IF options ? 'when' AND "audit".condition_expression(target_table, 'UPDATE', options) = '' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = concat(target_table, ': the condition ', options ->> 'when', ' does not fit the table'),
            HINT = 'Write it over the columns of OLD and NEW, and name functions with their schema.';
    END IF;
    IF options @> '{"query_text": true}' AND (options -> 'exclude' <> '[]' OR options ?| ARRAY['mask', 'include']) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = concat(target_table, ': query_text would store the values that exclude, include or mask keep out'),
            HINT = 'Use one or the other.';
    END IF;
    RETURN options;
END
$function$;

-- The function that serves a table's triggers, or the name that a new one gets.
CREATE OR REPLACE FUNCTION "audit".capture_function_name(target_table regclass)
RETURNS text
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _name text;
    _base text;
    _number int := 1;
BEGIN
    SELECT p.proname INTO _name
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid = target_table
      AND t.tgname = 'zzz_audit_insert'
      AND p.pronamespace = '"audit"'::regnamespace
      -- A partition that was detached shares the function of the table that it came from.
      AND NOT EXISTS (
          SELECT FROM pg_trigger AS other
          WHERE other.tgfoid = t.tgfoid
            AND other.tgrelid <> target_table
            AND NOT other.tgrelid IN (SELECT part.relid FROM pg_partition_tree(target_table) AS part)
      );
    IF FOUND THEN
        RETURN _name;
    END IF;
    SELECT concat('capture_', n.nspname, '_', c.relname) INTO _base
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = target_table;
    IF octet_length(_base) > 60 THEN
        -- Thirteen characters are 52 bytes at the most.
        _base := concat(left(_base, 13), '_', left(encode(sha256(convert_to(_base, 'UTF8')), 'hex'), 8));
    END IF;
    _name := _base;
    WHILE EXISTS (
        SELECT FROM pg_proc AS p
        WHERE p.pronamespace = '"audit"'::regnamespace AND p.proname = _name
    ) LOOP
        _number := _number + 1;
        _name := concat(_base, '_', _number);
    END LOOP;
    RETURN _name;
END
$function$;

-- Stop to track a table. What was recorded stays.
CREATE OR REPLACE FUNCTION "audit".unaudit_table(target_table regclass)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _row record;
BEGIN
    FOR _row IN
        SELECT t.tgname, t.tgrelid::regclass AS relation
        FROM pg_trigger AS t
        JOIN pg_proc AS p ON p.oid = t.tgfoid
        WHERE t.tgrelid IN (SELECT target_table UNION SELECT part.relid FROM pg_partition_tree(target_table) AS part)
          AND p.pronamespace = '"audit"'::regnamespace
          AND t.tgname IN ('zzz_audit_insert', 'zzz_audit_update', 'zzz_audit_delete', 'zzz_audit_truncate')
    LOOP
        EXECUTE concat('DROP TRIGGER ', quote_ident(_row.tgname), ' ON ', _row.relation);
    END LOOP;
    FOR _row IN
        SELECT p.proname
        FROM pg_proc AS p
        WHERE p.pronamespace = '"audit"'::regnamespace
          AND p.prorettype = 'trigger'::regtype
          AND starts_with(p.proname, 'capture_')
          AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = p.oid)
    LOOP
        EXECUTE concat('DROP FUNCTION "audit".', quote_ident(_row.proname), '()');
    END LOOP;
END
$function$;

-- What is wrong with the tracking of a table: one row for each finding, none if all is well.
--
--   wanted   the options that the application declares; NULL if it declares none
CREATE OR REPLACE FUNCTION "audit".check_table(target_table regclass, wanted jsonb)
RETURNS TABLE (code text, relation text, message text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _schema oid := '"audit"'::regnamespace;
    _function record;
    _part regclass;
    _verb text;
    _options jsonb;
    _is_row boolean;
BEGIN
    SELECT p.oid, p.proname, p.prosrc, p.prosecdef, p.proconfig, p.proowner,
           obj_description(p.oid, 'pg_proc')::jsonb #> '{audit_app,options}' AS options
    INTO _function
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid = target_table AND starts_with(t.tgname, 'zzz_audit_') AND p.pronamespace = _schema
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'untracked', target_table::text, 'has no trigger of the trail';
        RETURN;
    END IF;
    _options := coalesce(_function.options, '{"exclude": []}');

    IF wanted IS NOT NULL AND _options <> wanted THEN
        RETURN QUERY SELECT 'options', target_table::text,
            concat('is tracked with ', _options, ' and should be with ', wanted);
    END IF;
    IF _function.prosrc <> "audit".capture_body(target_table, _options) THEN
        RETURN QUERY SELECT 'drift', target_table::text,
            'was altered after its capture function was made, or the function was: changes are recorded by a slower way';
    END IF;
    IF NOT _function.prosecdef OR NOT 'search_path=pg_catalog, pg_temp' = ANY (_function.proconfig) THEN
        RETURN QUERY SELECT 'function', target_table::text,
            'has a capture function without SECURITY DEFINER or without its search_path';
    END IF;
    IF _function.proowner <> (SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = _schema) THEN
        RETURN QUERY SELECT 'owner', target_table::text, 'has a capture function that does not belong to the owner of the trail';
    END IF;

    _is_row := _options @> '{"level": "row"}';
    FOR _part IN
        SELECT target_table
        UNION
        SELECT p.relid FROM pg_partition_tree(target_table) AS p
        ORDER BY 1
    LOOP
        FOREACH _verb IN ARRAY ARRAY['insert', 'update', 'delete', 'truncate'] LOOP
            CONTINUE WHEN _options ? 'on' AND NOT _options -> 'on' ? _verb;
            RETURN QUERY
            SELECT
                CASE WHEN _part = target_table THEN 'trigger' ELSE 'partition' END,
                _part::text,
                concat('has no working trigger for ', _verb)
            WHERE NOT EXISTS (
                SELECT
                FROM pg_trigger AS t
                WHERE t.tgrelid = _part
                  AND t.tgname = concat('zzz_audit_', _verb)
                  AND t.tgfoid = _function.oid
                  AND t.tgenabled = 'A'
            );
        END LOOP;
    END LOOP;

    -- A write to a child of old inheritance fires the child's triggers only.
    RETURN QUERY
    SELECT 'child', i.inhrelid::regclass::text, concat('inherits from ', target_table, ' and is not tracked itself')
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = target_table
      AND NOT c.relispartition
      AND NOT EXISTS (
          SELECT
          FROM pg_trigger AS t
          JOIN pg_proc AS p ON p.oid = t.tgfoid
          WHERE t.tgrelid = i.inhrelid AND starts_with(t.tgname, 'zzz_audit_') AND p.pronamespace = _schema
      );

    -- The apply worker of logical replication fires row triggers only.
    RETURN QUERY
    SELECT 'subscription', target_table::text, 'is written to by logical replication, which fires row triggers only'
    FROM pg_subscription_rel AS s
    WHERE s.srrelid = target_table AND NOT _is_row;

    RETURN QUERY
    SELECT 'order', target_table::text, concat('has a trigger that fires after ours: ', t.tgname)
    FROM pg_trigger AS t
    WHERE t.tgrelid = target_table
      AND NOT t.tgisinternal
      AND t.tgname > 'zzz_audit_update'
      AND NOT starts_with(t.tgname, 'zzz_audit_');
END
$function$;

-- The trail is only ever added to. Maintenance (retention, renames) is a matter for its owner, who
-- disables these triggers in the same transaction and by that leaves a trace in the server's log.
CREATE OR REPLACE FUNCTION "audit".refuse()
RETURNS trigger
LANGUAGE plpgsql
AS $function$
BEGIN
    RAISE insufficient_privilege USING
        MESSAGE = concat('the audit trail is append-only: ', lower(TG_OP), ' on ', TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, ' was refused'),
        HINT = 'Nothing was changed. Only the maintenance functions of the trail may remove or rewrite history.';
END
$function$;

CREATE OR REPLACE TRIGGER append_only
BEFORE UPDATE OR DELETE OR TRUNCATE ON "audit".activity
FOR EACH STATEMENT EXECUTE FUNCTION "audit".refuse();
ALTER TABLE "audit".activity ENABLE ALWAYS TRIGGER append_only;

CREATE OR REPLACE TRIGGER append_only
BEFORE UPDATE OR DELETE OR TRUNCATE ON "audit".transaction
FOR EACH STATEMENT EXECUTE FUNCTION "audit".refuse();
ALTER TABLE "audit".transaction ENABLE ALWAYS TRIGGER append_only;

-- What is wrong with the trail as a whole: its grants, and the triggers that keep it as it is.
CREATE OR REPLACE FUNCTION "audit".check_trail()
RETURNS TABLE (code text, relation text, message text)
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH object (kind, oid, name, owner, acl) AS (
        SELECT 'table', c.oid, c.oid::regclass::text, c.relowner, coalesce(c.relacl, acldefault('r', c.relowner))
        FROM pg_class AS c
        WHERE c.relnamespace = '"audit"'::regnamespace AND c.relkind IN ('r', 'p')
        UNION ALL
        SELECT 'function', p.oid, p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
        FROM pg_proc AS p
        WHERE p.pronamespace = '"audit"'::regnamespace
        UNION ALL
        SELECT 'schema', n.oid, n.nspname, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
        FROM pg_namespace AS n
        WHERE n.oid = '"audit"'::regnamespace
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
          OR (o.kind = 'schema' AND a.privilege_type <> 'USAGE')
          -- Suspending may be granted; nothing else may.
          OR (o.kind = 'function' AND NOT o.oid IN (
              '"audit".suspend(text)'::regprocedure, '"audit".resume(bigint)'::regprocedure
          ))
      )
    UNION ALL
    SELECT 'append_only', concat('audit', '.', t.name), 'can be rewritten: its trigger append_only is missing or off'
    FROM (VALUES ('activity'), ('transaction')) AS t (name)
    WHERE NOT EXISTS (
        SELECT
        FROM pg_trigger AS g
        JOIN pg_class AS c ON c.oid = g.tgrelid
        WHERE c.relnamespace = '"audit"'::regnamespace
          AND c.relname = t.name
          AND g.tgname = 'append_only'
          AND g.tgenabled = 'A'
          AND g.tgfoid = '"audit".refuse()'::regprocedure
    )
$function$;

-- Nobody may call anything in here but the owner, and whom the owner grants it.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA "audit" FROM PUBLIC;

-- Give the trail to a role, which is made without login if it does not exist. Runs with the rights of
-- its caller, who becomes a member of that role.
CREATE OR REPLACE FUNCTION "audit".hand_over(new_owner text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _object text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = new_owner) THEN
        EXECUTE concat('CREATE ROLE ', quote_ident(new_owner), ' NOLOGIN');
    END IF;
    IF NOT pg_has_role(current_user, new_owner, 'MEMBER') THEN
        EXECUTE concat('GRANT ', quote_ident(new_owner), ' TO ', quote_ident(current_user));
    END IF;
    EXECUTE concat('ALTER SCHEMA "audit" OWNER TO ', quote_ident(new_owner));
    FOR _object IN
        SELECT concat('TABLE ', c.oid::regclass)
        FROM pg_class AS c
        WHERE c.relnamespace = '"audit"'::regnamespace AND c.relkind IN ('r', 'p')
        UNION ALL
        SELECT concat('FUNCTION ', p.oid::regprocedure)
        FROM pg_proc AS p
        WHERE p.pronamespace = '"audit"'::regnamespace
    LOOP
        EXECUTE concat('ALTER ', _object, ' OWNER TO ', quote_ident(new_owner));
    END LOOP;
END
$function$;
REVOKE ALL ON FUNCTION "audit".hand_over(text) FROM PUBLIC;
COMMENT ON SCHEMA "audit" IS 'audit_app sha256=46b79f42d915a22749f21b43ebb401ea18bbd87e17326ec6eca4dd7fd59e0221';
