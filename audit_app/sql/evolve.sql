-- History that follows the schema: the rewriting of what was recorded of one table, for the owner of the
-- trail. Every rewriting is a row of the trail itself (verb "rewrite"), and without that row of the same
-- transaction the guards of the trail refuse the update: see refuse().

-- Is this document an object that has the key? An array or a string may "have" it, too.
CREATE OR REPLACE FUNCTION @schema@.has_key(data jsonb, key text)
RETURNS boolean
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT coalesce(
        pg_catalog.jsonb_typeof(data) OPERATOR(pg_catalog.=) 'object' AND data OPERATOR(pg_catalog.?) key, false
    )
$function$;

-- Leave the mark that lets this transaction rewrite activities, until the setting is emptied.
CREATE OR REPLACE FUNCTION @schema@.begin_rewrite(relation text, kept jsonb, facts jsonb)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $function$
    -- A pruning tells what it deletes: not something else than what it has just read.
    SELECT @schema@.claim_history(true);
    SELECT @schema@.allow('rewrite', facts, relation, kept)
$function$;

-- Rewrite the activities of one table among those with the ids after "after", up to "until". Safe to call
-- again: an activity that is as it should be is not touched.
--
--   operation    arguments, and what it does in both documents of an activity
--   rename_table   {"schema": …, "table": …}: the names of the table, and no document
--   rename_column  {"column": …, "to": …}
--   add_column     {"column": …, "value": …}: gives whole rows that lack it the value
--   remove_column  {"column": …, "keep": true}: what is taken out is kept in the record of the rewriting,
--                  or with false is gone, there too
--   alter_column   {"column": …, "using": an SQL expression over "value", a jsonb}
--
-- Returns the number of activities that were changed.
CREATE OR REPLACE FUNCTION @schema@.evolve_batch(
    operation text, target_schema text, target_table text, arguments jsonb, run text, after bigint, until bigint
)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET standard_conforming_strings = on
AS $function$
#variable_conflict use_variable
DECLARE
    _column text := quote_literal(arguments ->> 'column');
    _relation text := concat(quote_ident(target_schema), '.', quote_ident(target_table));
    _old text;       -- a condition: is old_data to be changed?
    _changed text;   -- the same for changed_data
    _sets text[];    -- what becomes of either
    _ids bigint[];
    _kept jsonb;
    _clash bigint;
    _other text;
    _names text[];
BEGIN
    SELECT n.needed INTO _names
    FROM (VALUES
        ('rename_table', ARRAY['schema', 'table']), ('rename_column', ARRAY['column', 'to']),
        ('add_column', ARRAY['column', 'value']), ('remove_column', ARRAY['column', 'keep']),
        ('alter_column', ARRAY['column', 'using'])
    ) AS n (operation, needed)
    WHERE n.operation = operation;
    IF _names IS NULL OR NOT coalesce(arguments ?& _names, false) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = concat('the history of ', _relation, ' cannot evolve by ', operation, ' ', arguments),
            HINT = 'Use rename_table, rename_column, add_column, remove_column or alter_column, each with its arguments.';
    END IF;

    IF operation <> 'rename_table' THEN
        _old := concat('@schema@.has_key(a.old_data, ', _column, ')');
        _changed := concat('@schema@.has_key(a.changed_data, ', _column, ')');
    END IF;
    CASE operation
        WHEN 'rename_table' THEN
            _old := 'true';
            _changed := 'true';
        WHEN 'rename_column' THEN
            _other := quote_literal(arguments ->> 'to');
            EXECUTE concat(
                'SELECT a.id FROM @schema@.activity AS a WHERE a.id > $1 AND a.id <= $2',
                ' AND a.schema_name = $3 AND a.table_name = $4',
                ' AND (', _old, ' AND @schema@.has_key(a.old_data, ', _other, ')',
                ' OR ', _changed, ' AND @schema@.has_key(a.changed_data, ', _other, ')) LIMIT 1'
            ) INTO _clash USING after, until, target_schema, target_table;
            IF _clash IS NOT NULL THEN
                RAISE duplicate_column USING
                    MESSAGE = concat(
                        'the activity ', _clash, ' of ', _relation, ' knows both ', arguments ->> 'column', ' and ', arguments ->> 'to'
                    ),
                    HINT = 'Another column had that name: rename or remove it in the history first. Nothing was changed.';
            END IF;
        WHEN 'add_column' THEN
            -- Only whole rows: an update's changed_data says what changed.
            _old := concat('a.verb IN (''update'', ''delete'') AND jsonb_typeof(a.old_data) = ''object'' AND NOT ', _old);
            _changed := concat('a.verb IN (''insert'', ''baseline'') AND jsonb_typeof(a.changed_data) = ''object'' AND NOT ', _changed);
        ELSE
            NULL;
    END CASE;
    SELECT array_agg(
        CASE operation
            WHEN 'rename_column' THEN concat('@schema@.jsonb_change_key_name(', d.name, ', ', _column, ', ', _other, ')')
            WHEN 'add_column' THEN concat(
                d.name, ' || jsonb_build_object(', _column, ', ', quote_literal(arguments -> 'value'), '::jsonb)'
            )
            WHEN 'remove_column' THEN concat(d.name, ' - ', _column, '::text')
            WHEN 'alter_column' THEN concat(
                d.name, ' || jsonb_build_object(', _column, ', (SELECT ', arguments ->> 'using',
                ' FROM (SELECT ', d.name, ' -> ', _column, ') AS v (value)))'
            )
        END ORDER BY d.ordinal
    )
    INTO _sets
    FROM unnest('{a.old_data,a.changed_data}'::text[]) WITH ORDINALITY AS d (name, ordinal);

    EXECUTE concat(
        'SELECT array_agg(a.id ORDER BY a.id), ',
        CASE
            WHEN operation = 'alter_column' OR operation = 'remove_column' AND arguments -> 'keep' = 'true' THEN concat(
                'jsonb_object_agg(a.id, CASE WHEN ', _old, ' THEN jsonb_build_object(''old_data'', a.old_data -> ', _column,
                ') ELSE ''{}'' END || CASE WHEN ', _changed, ' THEN jsonb_build_object(''changed_data'', a.changed_data -> ', _column,
                ') ELSE ''{}'' END)'
            )
            WHEN operation = 'add_column' THEN concat(
                'jsonb_object_agg(a.id, CASE WHEN ', _old, ' THEN ''{"old_data": true}''::jsonb ELSE ''{"changed_data": true}'' END)'
            )
            ELSE 'NULL::jsonb'
        END,
        ' FROM @schema@.activity AS a WHERE a.id > $1 AND a.id <= $2 AND a.schema_name = $3 AND a.table_name = $4',
        ' AND (', _old, ' OR ', _changed, ')'
    ) INTO _ids, _kept USING after, until, target_schema, target_table;
    IF _ids IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM @schema@.begin_rewrite(_relation, _kept, jsonb_build_object(
        'operation', operation, 'schema', target_schema, 'table', target_table, 'arguments', arguments,
        'run', run, 'activities', cardinality(_ids), 'first', _ids[1], 'last', _ids[cardinality(_ids)]
    ));
    IF operation = 'rename_table' THEN
        UPDATE @schema@.activity AS a
        SET schema_name = arguments ->> 'schema', table_name = arguments ->> 'table'
        WHERE a.id = ANY (_ids);
    ELSE
        EXECUTE concat(
            'UPDATE @schema@.activity AS a SET old_data = CASE WHEN ', _old, ' THEN ', _sets[1],
            ' ELSE a.old_data END, changed_data = CASE WHEN ', _changed, ' THEN ', _sets[2],
            ' ELSE a.changed_data END WHERE a.id = ANY ($1)'
        ) USING _ids;
    END IF;
    PERFORM set_config('audit_app.rewrite', '', true);
    RETURN cardinality(_ids);
END
$function$;

-- The end of a removal that keeps nothing: earlier rewritings of the column gave up what they had kept.
CREATE OR REPLACE FUNCTION @schema@.forget_kept(operation text, target_schema text, target_table text, arguments jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _relation text := concat(quote_ident(target_schema), '.', quote_ident(target_table));
    _ids bigint[];
BEGIN
    IF operation <> 'remove_column' OR arguments -> 'keep' = 'true' THEN
        RETURN;
    END IF;
    SELECT array_agg(a.id) INTO _ids
    FROM @schema@.activity AS a
    WHERE a.object_id = @schema@.object_id(_relation)
      AND a.table_name = 'activity'
      AND a.schema_name = @schema_literal@
      AND a.verb = 'rewrite'
      AND a.changed_data -> 'arguments' ->> 'column' = arguments ->> 'column'
      AND a.old_data IS NOT NULL;
    IF _ids IS NOT NULL THEN
        PERFORM @schema@.begin_rewrite(_relation, NULL, jsonb_build_object(
            'operation', 'forget', 'schema', target_schema, 'table', target_table, 'arguments', arguments,
            'activities', cardinality(_ids)
        ));
        UPDATE @schema@.activity AS a SET old_data = NULL WHERE a.id = ANY (_ids);
        PERFORM set_config('audit_app.rewrite', '', true);
    END IF;
END
$function$;

-- The same for all activities of a table, in batches of as many ids.
CREATE OR REPLACE FUNCTION @schema@.evolve(
    operation text, target_schema text, target_table text, arguments jsonb, batch_size bigint DEFAULT 50000
)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _run text := gen_random_uuid();
    _after bigint;
    _last bigint;
    _count bigint := 0;
BEGIN
    SELECT min(a.id) - 1, max(a.id) INTO _after, _last FROM @schema@.activity AS a;
    WHILE _after < _last LOOP
        _count := _count + @schema@.evolve_batch(
            operation, target_schema, target_table, arguments, _run, _after, least(_after + batch_size, _last)
        );
        _after := _after + batch_size;
    END LOOP;
    PERFORM @schema@.forget_kept(operation, target_schema, target_table, arguments);
    RETURN _count;
END
$function$;

-- Undo the newest adding, removing or altering of a column that was not undone yet: activity by activity,
-- so that what was recorded since stays as it is.
CREATE OR REPLACE FUNCTION @schema@.restore_column(target_schema text, target_table text, target_column text)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _relation text := concat(quote_ident(target_schema), '.', quote_ident(target_table));
    _run record;
    _batch record;
    _count bigint := 0;
    _touched bigint;
BEGIN
    SELECT a.changed_data ->> 'run' AS id, a.changed_data ->> 'operation' AS operation INTO _run
    FROM @schema@.activity AS a
    WHERE a.object_id = @schema@.object_id(_relation)
      AND a.table_name = 'activity'
      AND a.schema_name = @schema_literal@
      AND a.verb = 'rewrite'
      AND a.changed_data ->> 'operation' IN ('add_column', 'remove_column', 'alter_column')
      AND a.changed_data -> 'arguments' ->> 'column' = target_column
      AND a.old_data IS NOT NULL
      AND NOT EXISTS (
          SELECT
          FROM @schema@.activity AS r
          WHERE r.object_id = a.object_id
            AND r.table_name = 'activity'
            AND r.schema_name = @schema_literal@
            AND r.verb = 'rewrite'
            AND r.changed_data ->> 'restores' = a.changed_data ->> 'run'
      )
    ORDER BY a.id DESC
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;  -- nothing of this table was ever rewritten: an empty trail has nothing to restore
    END IF;
    FOR _batch IN
        SELECT a.old_data AS kept, a.changed_data -> 'arguments' AS arguments
        FROM @schema@.activity AS a
        WHERE a.object_id = @schema@.object_id(_relation)
          AND a.table_name = 'activity'
          AND a.schema_name = @schema_literal@
          AND a.verb = 'rewrite'
          AND a.changed_data ->> 'run' = _run.id
        ORDER BY a.id
    LOOP
        PERFORM @schema@.begin_rewrite(_relation, NULL, jsonb_build_object(
            'operation', 'restore_column', 'schema', target_schema, 'table', target_table,
            'arguments', jsonb_build_object('column', target_column), 'restores', _run.id
        ));
        UPDATE @schema@.activity AS a
        SET old_data = CASE
                WHEN NOT k.value ? 'old_data' THEN a.old_data
                WHEN _run.operation = 'add_column' THEN a.old_data - target_column
                ELSE a.old_data || jsonb_build_object(target_column, k.value -> 'old_data')
            END,
            changed_data = CASE
                WHEN NOT k.value ? 'changed_data' THEN a.changed_data
                WHEN _run.operation = 'add_column' THEN a.changed_data - target_column
                ELSE a.changed_data || jsonb_build_object(target_column, k.value -> 'changed_data')
            END
        FROM jsonb_each(_batch.kept) AS k (id, value)
        WHERE a.id = k.id::bigint;
        GET DIAGNOSTICS _touched = ROW_COUNT;
        _count := _count + _touched;
    END LOOP;
    PERFORM set_config('audit_app.rewrite', '', true);
    RETURN _count;
END
$function$;
