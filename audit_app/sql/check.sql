-- What is wrong with the tracking of a table: one row for each finding, none if all is well.
--
--   wanted   the options that the application declares; NULL if it declares none
CREATE OR REPLACE FUNCTION @schema@.check_table(target_table regclass, wanted jsonb)
RETURNS TABLE (code text, relation text, message text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _schema oid := '@schema@'::regnamespace;
    _function record;
    _part regclass;
    _verb text;
    _options jsonb;
    _is_row boolean;
    _is_altered boolean;
BEGIN
    -- One trigger may have been replaced by another that calls the function of another table.
    SELECT p.oid, p.proname, p.prosrc, p.prosecdef, p.proconfig, p.proowner,
           @schema@.installed_options(p.oid) AS options
    INTO _function
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid = target_table AND starts_with(p.proname, 'capture_') AND p.pronamespace = _schema
    GROUP BY p.oid
    ORDER BY count(*) DESC, p.oid
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'untracked', target_table::text, 'has no trigger of the trail';
        RETURN;
    END IF;
    _options := coalesce(_function.options, '{"exclude": []}');

    IF _function.options IS NULL THEN
        RETURN QUERY SELECT 'options', target_table::text,
            'has a capture function whose comment does not tell its options any more';
    ELSIF wanted IS NOT NULL AND _options <> wanted THEN
        RETURN QUERY SELECT 'options', target_table::text,
            concat('is tracked with ', _options, ' and should be with ', wanted);
    END IF;
    _is_altered := _function.prosrc <> @schema@.capture_body(
        target_table, _options, @schema@.planned_relation(_function.prosrc)
    );
    IF _is_altered THEN
        RETURN QUERY SELECT 'drift', target_table::text,
            'was altered after its capture function was made, or the function was: changes are recorded by a slower way';
    END IF;
    -- Which settings there are to be follows from the columns.
    IF NOT _function.prosecdef OR (CASE
        WHEN _is_altered THEN (_function.proconfig @> ARRAY['search_path=pg_catalog, pg_temp']) IS NOT TRUE
        ELSE _function.proconfig IS DISTINCT FROM @schema@.capture_settings(target_table, _options)
    END) THEN
        RETURN QUERY SELECT 'function', target_table::text,
            'has a capture function without SECURITY DEFINER or with other settings than ours';
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
                concat('has no working trigger for ', _verb, ': ', f.fault)
            FROM (SELECT @schema@.trigger_fault(_part, _verb, _function.oid, _is_row)) AS f (fault)
            WHERE f.fault IS NOT NULL;
        END LOOP;
    END LOOP;

    -- A change must be recorded once, and by the function of its own table.
    RETURN QUERY
    SELECT 'duplicate', t.tgrelid::regclass::text, concat('has a trigger of the trail too many: ', t.tgname)
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE (t.tgrelid = target_table OR t.tgrelid IN (SELECT part.relid FROM pg_partition_tree(target_table) AS part))
      AND p.pronamespace = _schema
      AND starts_with(p.proname, 'capture_')
      AND NOT EXISTS (
          SELECT
          FROM unnest(ARRAY['insert', 'update', 'delete', 'truncate']) AS v (verb)
          WHERE t.tgname = @schema@.trigger_name(v.verb)
            AND (NOT _options ? 'on' OR _options -> 'on' ? v.verb)
      );

    -- Whoever owns a type can rename its values, or drop it and the column with it.
    RETURN QUERY
    SELECT 'type', target_table::text, concat(
        'has a column whose type is another role''s: ', a.attname, ' ', format_type(a.atttypid, a.atttypmod)
    )
    FROM pg_attribute AS a
    WHERE a.attrelid = target_table AND a.attnum > 0 AND NOT a.attisdropped
      AND NOT @schema@.is_trusted(@schema@.plain_type(a.atttypid));

    -- CREATE OR REPLACE TRIGGER wants no more than TRIGGER, and is enough to switch the capture off; with
    -- REFERENCES a cascade runs a function of somebody else's in the middle of a statement.
    RETURN QUERY
    SELECT 'privilege', c.oid::regclass::text, concat(
        a.privilege_type, ' is granted to ', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END
    )
    FROM pg_class AS c
    CROSS JOIN LATERAL (
        SELECT r.grantee, r.privilege_type FROM aclexplode(c.relacl) AS r
        UNION
        SELECT r.grantee, r.privilege_type
        FROM pg_attribute AS t
        CROSS JOIN LATERAL aclexplode(t.attacl) AS r
        WHERE t.attrelid = c.oid
    ) AS a
    WHERE (c.oid = target_table OR c.oid IN (SELECT p.relid FROM pg_partition_tree(target_table) AS p))
      AND a.grantee <> c.relowner
      AND a.privilege_type IN ('TRIGGER', 'REFERENCES');

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
          WHERE t.tgrelid = i.inhrelid AND starts_with(p.proname, 'capture_') AND p.pronamespace = _schema
      );

    -- The apply worker of logical replication fires row triggers only.
    RETURN QUERY
    SELECT 'subscription', target_table::text, 'is written to by logical replication, which fires row triggers only'
    FROM pg_subscription_rel AS s
    WHERE s.srrelid = target_table AND NOT _is_row;

    RETURN QUERY
    SELECT 'order', target_table::text, concat('has a trigger that fires before ours: ', t.tgname)
    FROM pg_trigger AS t
    WHERE t.tgrelid = target_table
      AND NOT t.tgisinternal
      AND t.tgname < @schema@.trigger_name('delete')
      -- AFTER, and of our level: neither bit 1 (BEFORE) nor bit 6 (INSTEAD) is set, and bit 0 means ROW.
      AND t.tgtype & 66 = 0
      AND (t.tgtype & 1 = 1) = _is_row;
END
$function$;

-- What is wrong with the tracking of all tables.
--
--   tables   what the application declares: {"name", "relation", "options"} of each, the relation's
--            number NULL if there is none
CREATE OR REPLACE FUNCTION @schema@.check_tables(tables jsonb)
RETURNS TABLE (code text, relation text, message text, "position" bigint)
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH declared AS (
        SELECT d.value ->> 'name' AS name, (d.value ->> 'relation')::oid AS oid, d.value -> 'options' AS options, d.ordinal
        FROM jsonb_array_elements(tables) WITH ORDINALITY AS d (value, ordinal)
    ),
    covered AS (
        SELECT d.oid FROM declared AS d WHERE d.oid IS NOT NULL
        UNION
        SELECT p.relid::oid FROM declared AS d CROSS JOIN LATERAL pg_partition_tree(d.oid) AS p
    )
    SELECT 'missing', d.name, 'does not exist', d.ordinal
    FROM declared AS d
    WHERE d.oid IS NULL
    UNION ALL
    SELECT f.code, f.relation, f.message, d.ordinal
    FROM declared AS d
    CROSS JOIN LATERAL @schema@.check_table(d.oid, d.options) AS f
    WHERE d.oid IS NOT NULL
    UNION ALL
    SELECT DISTINCT 'orphan', t.tgrelid::regclass::text, 'is tracked, and the application does not declare it', NULL::bigint
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE p.pronamespace = '@schema@'::regnamespace
      AND starts_with(p.proname, 'capture_')
      -- A partition comes with the table that it is a part of.
      AND NOT t.tgrelid IN (SELECT c.oid FROM covered AS c)
      AND NOT EXISTS (
          SELECT
          FROM pg_partition_ancestors(t.tgrelid) AS a
          JOIN pg_trigger AS above ON above.tgrelid = a.relid AND above.tgfoid = t.tgfoid
          WHERE a.relid <> t.tgrelid
      )
    ORDER BY 4, 2, 1
$function$;
