-- Start to track a table, or bring its triggers up to date: safe to call again.
--
-- It works with the rights of its caller, who must own the table.
CREATE OR REPLACE FUNCTION @schema@.audit_table(target_table regclass, excluded_columns text[] DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _schema oid := '@schema@'::regnamespace;
    _target record;
    _function text;
    _body text;
    _part regclass;
    _missing text;
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
    excluded_columns := (
        SELECT coalesce(array_agg(DISTINCT e.name ORDER BY e.name), '{}')
        FROM unnest(excluded_columns) AS e (name)
    );
    SELECT e.name INTO _missing
    FROM unnest(excluded_columns) AS e (name)
    WHERE NOT EXISTS (
        SELECT
        FROM pg_attribute AS a
        WHERE a.attrelid = target_table AND a.attname = e.name AND a.attnum > 0 AND NOT a.attisdropped
    );
    IF FOUND THEN
        RAISE undefined_column USING
            MESSAGE = concat(target_table, ' has no column ', quote_ident(_missing), ' to exclude'),
            HINT = 'Correct the name, or leave it out of excluded_columns.';
    END IF;

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

    _function := @schema@.capture_function_name(target_table);
    _body := @schema@.capture_body(target_table, excluded_columns);
    IF NOT EXISTS (
        SELECT FROM pg_proc AS p
        WHERE p.pronamespace = _schema AND p.proname = _function AND p.prosrc = _body
    ) THEN
        -- The output settings are fixed, so that a client's own do not change what is stored.
        EXECUTE concat(
            'CREATE OR REPLACE FUNCTION @schema@.', quote_ident(_function), '() RETURNS trigger ',
            'LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp ',
            'SET "TimeZone" = ''UTC'' SET "DateStyle" = ''ISO, YMD'' SET "IntervalStyle" = ''postgres'' ',
            'SET bytea_output = ''hex'' SET extra_float_digits = 1 SET lc_monetary = ''C'' ',
            'AS ', quote_literal(_body)
        );
        EXECUTE concat('REVOKE ALL ON FUNCTION @schema@.', quote_ident(_function), '() FROM PUBLIC');
        EXECUTE concat(
            'COMMENT ON FUNCTION @schema@.', quote_ident(_function), '() IS ',
            quote_literal(jsonb_build_object('audit_app', jsonb_build_object(
                'table', target_table::text, 'exclude', excluded_columns
            ))::text)
        );
    END IF;

    -- A write to a partition itself fires that partition's triggers only.
    FOR _part IN SELECT target_table UNION SELECT p.relid FROM pg_partition_tree(target_table) AS p LOOP
        FOREACH _verb IN ARRAY ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'] LOOP
            _trigger := concat('zzz_audit_', lower(_verb));
            IF NOT EXISTS (
                SELECT
                FROM pg_trigger AS t
                JOIN pg_proc AS p ON p.oid = t.tgfoid
                WHERE t.tgrelid = _part AND t.tgname = _trigger AND t.tgenabled = 'A'
                  AND p.pronamespace = _schema AND p.proname = _function
            ) THEN
                EXECUTE concat(
                    'CREATE OR REPLACE TRIGGER ', _trigger,
                    CASE _verb WHEN 'TRUNCATE' THEN ' BEFORE ' ELSE ' AFTER ' END, _verb, ' ON ', _part,
                    CASE _verb
                        WHEN 'INSERT' THEN ' REFERENCING NEW TABLE AS new_table'
                        WHEN 'UPDATE' THEN ' REFERENCING OLD TABLE AS old_table NEW TABLE AS new_table'
                        WHEN 'DELETE' THEN ' REFERENCING OLD TABLE AS old_table'
                    END,
                    ' FOR EACH STATEMENT EXECUTE FUNCTION @schema@.', quote_ident(_function), '()'
                );
                -- ALWAYS: also for sessions that apply or restore with session_replication_role.
                EXECUTE concat('ALTER TABLE ', _part, ' ENABLE ALWAYS TRIGGER ', _trigger);
            END IF;
        END LOOP;
    END LOOP;
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
      AND t.tgname = 'zzz_audit_insert'
      AND p.pronamespace = '@schema@'::regnamespace
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
          AND t.tgname IN ('zzz_audit_insert', 'zzz_audit_update', 'zzz_audit_delete', 'zzz_audit_truncate')
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
