-- The names of the triggers, in whose order they fire. The AFTER triggers come first, so that what another
-- trigger of the table writes is recorded after what made it fire; the BEFORE trigger for TRUNCATE last.
CREATE OR REPLACE FUNCTION @schema@.trigger_name(verb text)
RETURNS text
LANGUAGE sql
IMMUTABLE
AS $function$
    SELECT CASE pg_catalog.lower(verb)
        WHEN 'truncate' THEN 'zz_audit_truncate'
        ELSE pg_catalog.concat('00_audit_', pg_catalog.lower(verb))
    END
$function$;

-- What is wrong with the trigger for a verb; NULL if it is as audit_table() makes it.
CREATE OR REPLACE FUNCTION @schema@.trigger_fault(target regclass, verb text, capture oid, is_row boolean)
RETURNS text
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH wanted AS (
        SELECT
            CASE upper(verb)
                WHEN 'TRUNCATE' THEN 34  -- BEFORE
                WHEN 'INSERT' THEN 4
                WHEN 'UPDATE' THEN 16
                WHEN 'DELETE' THEN 8
            END + CASE WHEN is_row AND upper(verb) <> 'TRUNCATE' THEN 1 ELSE 0 END AS type,
            CASE WHEN NOT is_row AND upper(verb) IN ('UPDATE', 'DELETE') THEN 'old_table' END AS old_table,
            CASE WHEN NOT is_row AND upper(verb) IN ('INSERT', 'UPDATE') THEN 'new_table' END AS new_table
    )
    SELECT nullif(coalesce(
        (
            SELECT CASE
                WHEN t.tgfoid <> capture THEN 'it calls another function'
                WHEN t.tgenabled = 'D' THEN 'it is disabled'
                WHEN t.tgenabled <> 'A' THEN 'it does not fire in every session'
                WHEN t.tgtype <> w.type OR t.tgconstraint <> 0 THEN 'it fires at another event or another time'
                WHEN t.tgattr::text <> '' THEN 'it fires for some of the columns only'
                WHEN t.tgoldtable IS DISTINCT FROM w.old_table OR t.tgnewtable IS DISTINCT FROM w.new_table
                THEN 'it is not given the rows'
                WHEN NOT pg_get_triggerdef(t.oid) ~ 'WHEN [(][(]set_config[(]''audit_app.writer''::text, [(]*CURRENT_USER[)]*::text, true[)] IS NOT NULL[)][)] EXECUTE'
                THEN 'its condition is another one'
                ELSE ''
            END
            FROM pg_trigger AS t
            WHERE t.tgrelid = target AND t.tgname = @schema@.trigger_name(verb)
        ),
        'it is missing'
    ), '')
    FROM wanted AS w
$function$;

-- The options that a capture function was made with; NULL if its comment does not tell them any more.
CREATE OR REPLACE FUNCTION @schema@.installed_options(capture oid)
RETURNS jsonb
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    RETURN obj_description(capture, 'pg_proc')::jsonb #> '{audit_app,options}';
EXCEPTION
    WHEN data_exception THEN
        RETURN NULL;
END
$function$;

-- All that may have to be fixed: where the columns are not known beforehand, it is.
CREATE OR REPLACE FUNCTION @schema@.fixed_settings()
RETURNS text[]
LANGUAGE sql
IMMUTABLE
AS $function$
    SELECT ARRAY[
        'TimeZone=UTC', 'DateStyle=ISO, YMD', 'IntervalStyle=postgres', 'bytea_output=hex', 'extra_float_digits=1',
        'lc_monetary=C', 'standard_conforming_strings=on', 'array_nulls=on'
    ]
$function$;

-- The settings that can change what is stored of a value of this plain type. Each that a function fixes costs a
-- microsecond at each call; those of the types that most tables consist of are known, and any other has all.
CREATE OR REPLACE FUNCTION @schema@.settings_of(type oid)
RETURNS text[]
LANGUAGE sql
IMMUTABLE
AS $function$
    SELECT CASE
        WHEN type = ANY ('{
            bool, int2, int4, int8, oid, numeric, text, varchar, bpchar, name, uuid, json, jsonb
        }'::regtype[]::oid[]) THEN ARRAY[]::text[]
        WHEN type = ANY ('{date, time, timetz, timestamp, timestamptz}'::regtype[]::oid[]) THEN ARRAY['TimeZone', 'DateStyle']
        WHEN type = 'interval'::regtype THEN ARRAY['IntervalStyle']
        WHEN type = 'bytea'::regtype THEN ARRAY['bytea_output']
        WHEN type IN ('float4'::regtype, 'float8'::regtype) THEN ARRAY['extra_float_digits']
    END
$function$;

-- What a capture function fixes, as the catalog keeps it: where names are looked up; the output settings,
-- so that a client's own do not change what is stored; and what a condition means.
CREATE OR REPLACE FUNCTION @schema@.capture_settings(target oid, options jsonb)
RETURNS text[]
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH needed AS (
        SELECT @schema@.settings_of(@schema@.plain_type(a.atttypid)) AS names
        FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
    )
    SELECT ARRAY['search_path=pg_catalog, pg_temp'] || ARRAY(
        SELECT s.setting
        FROM unnest(@schema@.fixed_settings()) WITH ORDINALITY AS s (setting, ordinal)
        WHERE options ? 'when'
           OR EXISTS (
               SELECT FROM needed AS n WHERE n.names IS NULL OR split_part(s.setting, '=', 1) = ANY (n.names)
           )
        ORDER BY s.ordinal
    ) || CASE
        WHEN options ? 'when' THEN ARRAY[
            'transform_null_equals=off', 'xmloption=content', 'default_text_search_config=pg_catalog.simple'
        ]
        ELSE ARRAY[]::text[]
    END
$function$;

-- Change settings until somebody changes them back: to what is returned.
CREATE OR REPLACE FUNCTION @schema@.exchange_settings(settings text[])
RETURNS text[]
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
DECLARE
    _former text[] := ARRAY(
        SELECT concat(split_part(s.setting, '=', 1), '=', current_setting(split_part(s.setting, '=', 1)))
        FROM unnest(settings) AS s (setting)
    );
BEGIN
    PERFORM set_config(split_part(s.setting, '=', 1), substr(s.setting, strpos(s.setting, '=') + 1), true)
    FROM unnest(settings) AS s (setting);
    RETURN _former;
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
DROP FUNCTION IF EXISTS @schema@.audit_table(regclass, text[]);
CREATE OR REPLACE FUNCTION @schema@.audit_table(
    target_table regclass, excluded_columns text[] DEFAULT '{}', options jsonb DEFAULT '{}'
)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _schema oid := '@schema@'::regnamespace;
    _owner text := (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace AS n WHERE n.oid = '@schema@'::regnamespace);
    _verbs constant text[] := ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'];
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
    options := @schema@.checked_options(target_table, jsonb_set(options, '{exclude}', (
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
      AND t.tgname IN (SELECT @schema@.trigger_name(v) FROM unnest(_verbs) AS v)
      AND (p.pronamespace <> _schema OR NOT starts_with(p.proname, 'capture_'));
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = concat(target_table, ' has a trigger named ', _foreign, ' that is not ours'),
            HINT = 'Rename that trigger: ALTER TRIGGER … RENAME TO …; nothing was changed.';
    END IF;

    _function := @schema@.capture_function_name(target_table);
    _body := @schema@.capture_body(target_table, options);
    IF NOT EXISTS (
        SELECT FROM pg_proc AS p
        WHERE p.pronamespace = _schema AND p.proname = _function AND p.prosrc = _body
          AND p.prosecdef
          AND p.proconfig IS NOT DISTINCT FROM @schema@.capture_settings(target_table, options)
          AND p.proowner = (SELECT n.nspowner FROM pg_namespace AS n WHERE n.oid = _schema)
          AND @schema@.installed_options(p.oid) IS NOT DISTINCT FROM options
    ) THEN
        EXECUTE concat(
            'CREATE OR REPLACE FUNCTION @schema@.', quote_ident(_function), '() RETURNS trigger ',
            'LANGUAGE plpgsql SECURITY DEFINER ',
            (
                SELECT string_agg(concat(
                    'SET ', quote_ident(split_part(c.setting, '=', 1)), ' = ',
                    CASE
                        -- A list of names, which quotes would make one name.
                        WHEN starts_with(c.setting, 'search_path=') THEN split_part(c.setting, '=', 2)
                        ELSE quote_literal(split_part(c.setting, '=', 2))
                    END, ' '
                ), '' ORDER BY c.ordinal)
                FROM unnest(@schema@.capture_settings(target_table, options)) WITH ORDINALITY AS c (setting, ordinal)
            ),
            'AS ', quote_literal(_body)
        );
        EXECUTE concat('REVOKE ALL ON FUNCTION @schema@.', quote_ident(_function), '() FROM PUBLIC');
        -- It writes with the rights of its owner, who is the owner of the trail.
        IF EXISTS (
            SELECT FROM pg_proc AS p
            WHERE p.pronamespace = _schema AND p.proname = _function AND pg_get_userbyid(p.proowner) <> _owner
        ) THEN
            EXECUTE concat('ALTER FUNCTION @schema@.', quote_ident(_function), '() OWNER TO ', quote_ident(_owner));
        END IF;
        EXECUTE concat(
            'COMMENT ON FUNCTION @schema@.', quote_ident(_function), '() IS ',
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
        FOREACH _verb IN ARRAY _verbs LOOP
            _trigger := @schema@.trigger_name(_verb);
            _is_wanted := NOT options ? 'on' OR options -> 'on' ? lower(_verb);
            SELECT
                @schema@.trigger_fault(_part, _verb, (
                    SELECT f.oid FROM pg_proc AS f WHERE f.pronamespace = _schema AND f.proname = _function
                ), _is_row) IS NULL AS is_current,
                (t.tgtype & 1 = 1) AS is_row,
                t.tgconstraint <> 0 AS is_constraint,
                t.tgparentid <> 0 AS is_inherited
            INTO _existing
            FROM pg_trigger AS t
            JOIN pg_proc AS p ON p.oid = t.tgfoid
            WHERE t.tgrelid = _part AND t.tgname = _trigger;
            IF FOUND AND NOT _existing.is_inherited
                AND (
                    NOT _is_wanted
                    OR _existing.is_row <> (_is_row AND _verb <> 'TRUNCATE')
                    OR _existing.is_constraint
                )
            THEN
                EXECUTE concat('DROP TRIGGER ', quote_ident(_trigger), ' ON ', _part);
                _existing.is_current := false;
            END IF;
            CONTINUE WHEN NOT _is_wanted
                OR coalesce(_existing.is_current, false)
                OR (_is_row AND _verb <> 'TRUNCATE' AND _part <> target_table);
            EXECUTE concat(
                'CREATE OR REPLACE TRIGGER ', quote_ident(_trigger),
                CASE _verb WHEN 'TRUNCATE' THEN ' BEFORE ' ELSE ' AFTER ' END, _verb, ' ON ', _part,
                CASE
                    WHEN _is_row AND _verb <> 'TRUNCATE' THEN ' FOR EACH ROW'
                    WHEN _verb = 'INSERT' THEN ' REFERENCING NEW TABLE AS new_table FOR EACH STATEMENT'
                    WHEN _verb = 'UPDATE' THEN ' REFERENCING OLD TABLE AS old_table NEW TABLE AS new_table FOR EACH STATEMENT'
                    WHEN _verb = 'DELETE' THEN ' REFERENCING OLD TABLE AS old_table FOR EACH STATEMENT'
                    ELSE ' FOR EACH STATEMENT'
                END,
                -- Looks at current_user where the statement runs: in the capture function it is the trail's
                -- owner, and the session's user is not the one whose rights a SECURITY DEFINER function has.
                ' WHEN (pg_catalog.set_config(''audit_app.writer'', current_user, true) IS NOT NULL)',
                ' EXECUTE FUNCTION @schema@.', quote_ident(_function), '()'
            );
            -- ALWAYS: also for sessions that apply or restore with session_replication_role.
            EXECUTE concat('ALTER TABLE ', _part, ' ENABLE ALWAYS TRIGGER ', quote_ident(_trigger));
        END LOOP;
        -- An older version of this function gave other names; a change must not be recorded twice.
        FOR _existing IN
            SELECT t.tgname
            FROM pg_trigger AS t
            JOIN pg_proc AS p ON p.oid = t.tgfoid
            WHERE t.tgrelid = _part
              AND p.pronamespace = _schema
              AND starts_with(p.proname, 'capture_')
              AND t.tgparentid = 0
              AND NOT t.tgname IN (SELECT @schema@.trigger_name(v) FROM unnest(_verbs) AS v)
        LOOP
            EXECUTE concat('DROP TRIGGER ', quote_ident(_existing.tgname), ' ON ', _part);
        END LOOP;
    END LOOP;
END
$function$;

-- The options in their canonical form; an error that names the table and the option if one is wrong.
CREATE OR REPLACE FUNCTION @schema@.checked_options(target_table regclass, options jsonb)
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
    -- A record without its identity has no history; and the identity is stored in clear.
    SELECT o.key, c.name INTO _option, _column
    FROM (VALUES ('exclude', options -> 'exclude'), ('mask', options -> 'mask')) AS o (key, value)
    CROSS JOIN LATERAL jsonb_array_elements_text(o.value) AS c (name)
    JOIN pg_index AS i ON i.indrelid = target_table AND i.indisprimary
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname = c.name;
    IF FOUND THEN
        RAISE invalid_parameter_value USING
            MESSAGE = concat(target_table, ': the column ', quote_ident(_column), ' in ', _option, ' belongs to the primary key'),
            HINT = 'The identity of a record is always stored: leave the column out of the option.';
    END IF;
    IF NOT EXISTS (SELECT FROM @schema@.captured_columns(target_table, options, NULL) AS c WHERE c.is_stored) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = concat(target_table, ': no column is left to store'),
            HINT = 'Exclude less, or do not track the table.';
    END IF;
    IF options ? 'when' THEN
        SELECT string_agg(concat('r.', quote_ident(a.attname), ' AS c', a.attnum), ', ' ORDER BY a.attnum)
        INTO _column
        FROM pg_attribute AS a
        WHERE a.attrelid = target_table AND a.attnum > 0 AND NOT a.attisdropped;
        BEGIN
            -- Planned with the rights of whoever calls, and never run.
            EXECUTE concat(
                'SELECT FROM (SELECT ', _column, ' FROM ', target_table, ' AS r) AS o, (SELECT ', _column,
                ' FROM ', target_table, ' AS r) AS n WHERE false',
                @schema@.condition_expression(target_table, 'UPDATE', options)
            );
        EXCEPTION WHEN undefined_column OR undefined_function OR datatype_mismatch OR syntax_error THEN
            RAISE invalid_parameter_value USING
                MESSAGE = concat(target_table, ': the condition ', options ->> 'when', ' does not fit the table'),
                HINT = concat('Write it over the columns of OLD and NEW, and name functions with their schema (', SQLERRM, ').');
        END;
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
CREATE OR REPLACE FUNCTION @schema@.capture_function_name(target_table regclass)
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
      AND p.pronamespace = '@schema@'::regnamespace
      AND starts_with(p.proname, 'capture_')
      -- A partition that was detached shares the function of the table that it came from.
      AND NOT EXISTS (
          SELECT FROM pg_trigger AS other
          WHERE other.tgfoid = t.tgfoid
            AND other.tgrelid <> target_table
            AND NOT other.tgrelid IN (SELECT part.relid FROM pg_partition_tree(target_table) AS part)
      )
    LIMIT 1;
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
        WHERE p.pronamespace = '@schema@'::regnamespace AND p.proname = _name
    ) LOOP
        _number := _number + 1;
        _name := concat(_base, '_', _number);
    END LOOP;
    RETURN _name;
END
$function$;

-- Stop to track a table. What was recorded stays.
CREATE OR REPLACE FUNCTION @schema@.unaudit_table(target_table regclass)
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
          AND p.pronamespace = '@schema@'::regnamespace
          AND starts_with(p.proname, 'capture_')
          -- It goes with the one that it was handed down from.
          AND t.tgparentid = 0
    LOOP
        EXECUTE concat('DROP TRIGGER ', quote_ident(_row.tgname), ' ON ', _row.relation);
    END LOOP;
    FOR _row IN
        SELECT p.proname
        FROM pg_proc AS p
        WHERE p.pronamespace = '@schema@'::regnamespace
          AND p.prorettype = 'trigger'::regtype
          AND starts_with(p.proname, 'capture_')
          AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = p.oid)
    LOOP
        EXECUTE concat('DROP FUNCTION @schema@.', quote_ident(_row.proname), '()');
    END LOOP;
END
$function$;
