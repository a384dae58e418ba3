-- Reading the past, for psql, for reports and for the package alike. Everything here works with the rights of
-- its caller, so that the rights on the trail decide. past_query() alone runs as the owner: it calls what
-- nobody else may, and reads nothing but the catalog.

-- A document under the present names of its columns.
--
--   columns   {"present name": ["former name", …]}
CREATE OR REPLACE FUNCTION @schema@.under_present_names(data jsonb, columns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _names text[] := ARRAY(SELECT jsonb_object_keys(data));
    _rename record;
BEGIN
    FOR _rename IN
        SELECT c.key AS present, f.name AS former
        FROM jsonb_each(columns) AS c
        CROSS JOIN LATERAL jsonb_array_elements_text(c.value) AS f (name)
        -- What has the present name was written under it: a former name is another column's then.
        WHERE NOT c.key = ANY (_names) AND f.name = ANY (_names)
    LOOP
        data := (data - _rename.former) || jsonb_build_object(_rename.present, data -> _rename.former);
    END LOOP;
    RETURN data;
END
$function$;

-- The stored form of an hstore, an object, as the text that the type reads.
CREATE OR REPLACE FUNCTION @schema@.hstore_text(value jsonb)
RETURNS jsonb
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT CASE jsonb_typeof(value)
        WHEN 'object' THEN to_jsonb(coalesce((
            SELECT string_agg(concat(q.key, '=>', coalesce(q.value, 'NULL')), ', ')
            FROM jsonb_each_text(value) AS p (key, value)
            CROSS JOIN LATERAL (
                SELECT
                    '"' || replace(replace(p.key, chr(92), repeat(chr(92), 2)), '"', chr(92) || '"') || '"',
                    '"' || replace(replace(p.value, chr(92), repeat(chr(92), 2)), '"', chr(92) || '"') || '"'
            ) AS q (key, value)
        ), ''))
        ELSE value
    END
$function$;

-- A document as a row of a table's type. A value that does not fit its column any more (its type, or the labels
-- of an enum, were altered) becomes NULL, and so does what is no value but a mark of the capture's.
CREATE OR REPLACE FUNCTION @schema@.row_as(base anyelement, data jsonb)
RETURNS anyelement
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _column record;
BEGIN
    IF jsonb_path_exists(data, '$.*."$audit"') THEN
        SELECT coalesce(jsonb_object_agg(d.key, d.value), '{}') INTO data
        FROM jsonb_each(data) AS d
        WHERE jsonb_typeof(d.value) <> 'object' OR NOT coalesce(d.value ->> '$audit', '') IN ('masked', 'too large');
    END IF;
    RETURN jsonb_populate_record(base, data);
EXCEPTION
    WHEN data_exception OR integrity_constraint_violation OR datatype_mismatch OR feature_not_supported
        OR undefined_table OR undefined_column OR undefined_function OR undefined_object OR invalid_schema_name
        OR program_limit_exceeded
    THEN
        FOR _column IN SELECT d.key, d.value FROM jsonb_each(data) AS d LOOP
            BEGIN
                base := jsonb_populate_record(base, jsonb_build_object(_column.key, _column.value));
            EXCEPTION
                WHEN data_exception OR integrity_constraint_violation OR datatype_mismatch OR feature_not_supported
                    OR undefined_table OR undefined_column OR undefined_function OR undefined_object OR invalid_schema_name
                    OR program_limit_exceeded
                THEN
                    NULL;
            END;
        END LOOP;
        RETURN base;
END
$function$;

-- The condition by which an activity, as "a", belongs to a table under any of its names.
--
--   formerly   {"tables": [["schema", "name"], …], …}
CREATE OR REPLACE FUNCTION @schema@.past_place(target oid, formerly jsonb)
RETURNS text
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT concat(
        '(a.table_name IN (', string_agg(DISTINCT quote_literal(n.name), ', '),
        ') AND (a.schema_name, a.table_name) IN (',
        string_agg(DISTINCT concat('(', quote_literal(n.schema), ', ', quote_literal(n.name), ')'), ', '), '))'
    )
    FROM (
        SELECT s.nspname::text, c.relname::text
        FROM pg_class AS c
        JOIN pg_namespace AS s ON s.oid = c.relnamespace
        WHERE c.oid = target
        UNION ALL
        SELECT t.value ->> 0, t.value ->> 1 FROM jsonb_array_elements(formerly -> 'tables') AS t
    ) AS n (schema, name)
$function$;

-- The query for the rows of a table at a moment: $1 the moment, $2 the last activity that counts, $3 the last
-- truncation among those, $4 {"present": ["former"]}, $5 whether anything was ever truncated, $6 the key of the
-- one record that is asked for.
--
--   is_single   one record, through changes of its key; else the whole table
--   by_time     whether $1 counts, and not $2
--   emptied     the partitions that were truncated: {oid: [the last time that counts or null]}
--   whole_from  from when on history is whole, where earlier history was pruned: what was kept of that, by a hold
--               or by its verb, does not tell what a row was later
CREATE OR REPLACE FUNCTION @schema@.past_query(
    target oid, formerly jsonb, is_single boolean, by_time boolean, emptied jsonb, whole_from timestamptz
)
RETURNS text
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _place text := @schema@.past_place(target, formerly);
    _past text := CASE WHEN by_time THEN 'a.issued_at <= $1' ELSE 'a.id <= $2' END;
    _known text := CASE WHEN is_single AND whole_from IS NOT NULL THEN '' WHEN is_single THEN concat(
        ' AND (coalesce($1 >= transaction_timestamp(), false)',
        ' OR (SELECT EXISTS (SELECT FROM @schema@.activity AS a WHERE ', _place, ' AND ', _past, ')))'
    ) END;
    _whole text := CASE WHEN whole_from IS NOT NULL THEN concat(' AND a.issued_at >= ', quote_literal(whole_from)) END;
    _options jsonb;
    _hidden text[];     -- what the trail must not or cannot tell
    _live text;
    _aliased text;      -- the key's columns under the aliases of key_expression()
    _document text := 'd.data';
    _is_gone text := '';
    _is_never text := '';
    _touched text;
    _column record;
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND NOT @schema@.is_trusted(a.atttypid)
    ) THEN
        -- To read a value of a domain calls its checks: the code of its owner, with the rights of the reader.
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = concat(target::regclass, ' has a column whose type is another role''s'),
            HINT = 'Give the type to the owner of the table: ALTER TYPE … OWNER TO ….';
    END IF;
    SELECT @schema@.installed_options(p.oid) INTO _options
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE t.tgrelid = target AND starts_with(p.proname, 'capture_') AND n.nspname = @schema_literal@
    LIMIT 1;
    SELECT
        coalesce(array_agg(c.name) FILTER (WHERE NOT c.is_stored OR c.is_masked), '{}'),
        string_agg(
            CASE
                -- NULL, without asking a domain whether it may be.
                WHEN NOT c.is_stored OR c.is_masked THEN concat('CASE WHEN false THEN r.', quote_ident(c.name), ' END')
                ELSE concat('r.', quote_ident(c.name))
            END, ', ' ORDER BY c.attnum
        )
    INTO _hidden, _live
    FROM @schema@.captured_columns(target, coalesce(_options, '{}'), NULL) AS c;
    SELECT string_agg(concat('r.', quote_ident(a.attname), ' AS c', a.attnum), ', ')
    INTO _aliased
    FROM pg_index AS i
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = target AND i.indisprimary;

    IF formerly -> 'columns' <> '{}' THEN
        _document := concat('@schema@.under_present_names(', _document, ', $4)');
    END IF;
    IF _hidden <> '{}' THEN
        _document := concat('(', _document, ' - ', quote_literal(_hidden), '::text[])');
    END IF;
    FOR _column IN
        SELECT c.name
        FROM @schema@.captured_columns(target, '{}', NULL) AS c
        WHERE EXISTS (
            SELECT FROM @schema@.parts_of(c.type) AS p (oid) JOIN pg_type AS t ON t.oid = p.oid WHERE t.typname = 'hstore'
        )
        AND (SELECT t.typcategory <> 'A' FROM pg_type AS t WHERE t.oid = c.type)
    LOOP
        _document := concat(
            '(SELECT CASE WHEN h.data ? ', quote_literal(_column.name), ' THEN h.data || jsonb_build_object(', quote_literal(_column.name),
            ', @schema@.hstore_text(h.data -> ', quote_literal(_column.name), ')) ELSE h.data END FROM (SELECT ', _document, ') AS h (data))'
        );
    END LOOP;

    -- A truncated partition took its own rows with it.
    SELECT
        string_agg(concat(
            ' AND NOT (a.id < ', e.value, ' AND coalesce((SELECT ', pg_get_partition_constraintdef(e.key::oid),
            ' FROM (SELECT r.*) AS p), false))'
        ), '') FILTER (WHERE e.value <> 'null'),
        string_agg(concat(
            ' AND NOT coalesce((SELECT ', pg_get_partition_constraintdef(e.key::oid), ' FROM (SELECT r.*) AS p), false)'
        ), '')
    INTO _is_gone, _is_never
    FROM jsonb_each(emptied) AS e;

    _touched := CASE
        WHEN is_single THEN concat(
            'span (key, low, high, way) AS (
                SELECT $6::text, -9223372036854775808, 9223372036854775807, 0
                UNION
                SELECT c.key, c.low, c.high, c.way
                FROM span AS s
                CROSS JOIN LATERAL (
                    SELECT a.object_id, -9223372036854775808, a.id, -1
                    FROM @schema@.activity AS a
                    WHERE a.new_object_id = s.key AND a.id BETWEEN s.low AND s.high AND s.way <= 0 AND ', _place, '
                    UNION ALL
                    SELECT a.new_object_id, a.id, 9223372036854775807, 1
                    FROM @schema@.activity AS a
                    WHERE a.object_id = s.key AND a.new_object_id IS NOT NULL
                      AND a.id > s.low AND a.id <= s.high AND s.way >= 0 AND ', _place, '
                ) AS c (key, low, high, way)
            ),
            -- Another record may have had the key before or after: the one that had it then comes first.
            holder AS (
                SELECT a.id
                FROM @schema@.activity AS a
                WHERE a.verb <> ''delete''', _whole, ' AND coalesce(a.new_object_id, a.object_id) = $6 AND a.id = greatest(
                    (SELECT a.id FROM @schema@.activity AS a WHERE a.object_id = $6 AND ', _past, ' AND ', _place, '
                     ORDER BY a.id DESC LIMIT 1),
                    (SELECT a.id FROM @schema@.activity AS a WHERE a.new_object_id = $6 AND ', _past, ' AND ', _place, '
                     ORDER BY a.id DESC LIMIT 1)
                )
            ),
            touched AS (
                SELECT
                    coalesce((SELECT h.id FROM holder AS h), max(a.id) FILTER (WHERE ', _past, ')) AS last,
                    min(a.id) FILTER (WHERE NOT ', _past, ') AS first
                FROM span AS s
                -- Sorted, so that it stays a look into the index for each of the few keys.
                CROSS JOIN LATERAL (
                    SELECT a.id, a.issued_at
                    FROM @schema@.activity AS a
                    WHERE a.object_id = s.key AND a.id BETWEEN s.low AND s.high AND ', _place, _whole, '
                    ORDER BY a.id
                ) AS a
                HAVING count(*) > 0
            )'
        )
        ELSE concat(
            -- Each key with the last of the activities that count, and the first of the others.
            'touched AS (
                SELECT e.key, max(a.id) FILTER (WHERE ', _past, ') AS last, min(a.id) FILTER (WHERE NOT ', _past, ') AS first
                FROM @schema@.activity AS a
                CROSS JOIN LATERAL (VALUES (a.object_id), (a.new_object_id)) AS e (key)
                WHERE ', _place, _whole, ' AND e.key IS NOT NULL
                GROUP BY e.key
            )'
        )
    END;
    RETURN concat(
        'WITH RECURSIVE ', _touched, '
        SELECT r.*
        FROM touched AS t
        JOIN @schema@.activity AS a ON a.id = coalesce(t.last, t.first)
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN t.last IS NOT NULL THEN coalesce(a.old_data, ''{}'') || coalesce(a.changed_data, ''{}'')
                -- It has not changed until then, from when the recording of the table began.
                ELSE coalesce(a.old_data, a.changed_data)
            END
            OFFSET 0
        ) AS d (data)
        CROSS JOIN LATERAL @schema@.row_as(NULL::', target::regclass, ', ', _document, ') AS r
        WHERE CASE
            WHEN t.last IS NULL THEN a.verb IN (''update'', ''delete'', ''baseline'') AND $3 IS NULL',
            coalesce(_known, ' AND a.object_id = t.key'), '
            ELSE a.verb IN (''insert'', ''update'', ''baseline'') AND ($3 IS NULL OR a.id > $3)',
            CASE WHEN NOT is_single THEN ' AND t.key = coalesce(a.new_object_id, a.object_id)' END, '
        END',
        _is_gone, '
        UNION ALL
        SELECT ', _live, '
        FROM ', target::regclass, ' AS r
        CROSS JOIN LATERAL (SELECT ', _aliased, ') AS k
        WHERE NOT $5', _known,
        CASE
            WHEN is_single THEN concat(
                ' AND NOT EXISTS (SELECT FROM touched) AND ', (
                    SELECT string_agg(concat(
                        'r.', quote_ident(c.attname), ' = ',
                        -- In a sub-select, so that a text of another shape is not read before it has to be.
                        CASE i.indnkeyatts WHEN 1 THEN '(SELECT $6)' ELSE concat('(SELECT $6::jsonb ->> ', k.ordinal - 1, ')') END,
                        '::', format_type(c.atttypid, c.atttypmod)
                    ), ' AND ' ORDER BY k.ordinal)
                    FROM pg_index AS i
                    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, ordinal)
                    JOIN pg_attribute AS c ON c.attrelid = i.indrelid AND c.attnum = k.attnum
                    WHERE i.indrelid = target AND i.indisprimary AND k.ordinal <= i.indnkeyatts
                )
            )
            ELSE concat(
                ' AND NOT EXISTS (SELECT FROM touched AS t WHERE t.key = (', @schema@.key_expression(target, 'k'),
                ') COLLATE "default")'
            )
        END,
        _is_never
    );
END
$function$;

-- Did a truncation take this row? One of a partition took what belongs there; any other one took all.
--
--   relation   what was truncated, by the activity
CREATE OR REPLACE FUNCTION @schema@.was_emptied(relation oid, data jsonb)
RETURNS boolean
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _condition text := (
        SELECT pg_get_partition_constraintdef(c.oid) FROM pg_class AS c WHERE c.oid = relation AND c.relispartition
    );
    _found boolean;
BEGIN
    IF _condition IS NULL THEN
        RETURN true;
    END IF;
    EXECUTE concat(
        'SELECT ', _condition, ' FROM jsonb_to_record($1) AS r (',
        (
            SELECT string_agg(concat(quote_ident(a.attname), ' ', format_type(a.atttypid, a.atttypmod)), ', ')
            FROM pg_attribute AS a
            JOIN pg_type AS t ON t.oid = a.atttypid
            WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
              -- No domain, nor what may hold one: their checks are their owners' code.
              AND (t.oid < 16384 OR t.typtype IN ('e', 'r') OR (t.typtype = 'b' AND t.typcategory <> 'A'))
        ),
        ')'
    ) INTO _found USING data;
    RETURN coalesce(_found, false);
EXCEPTION
    WHEN data_exception OR undefined_column THEN
        RETURN true;
END
$function$;

-- The rows of a table as they were:
--
--     SELECT * FROM audit.as_of(NULL::article, '2026-05-01')
--
-- What the trail does not hold of a row (excluded and masked columns) is NULL. Before the first activity of the
-- table nothing is known: see known_since().
--
--   moment        by the time at which each statement began
--   activity      or: after this activity, in the order of their ids
--   transaction   or: after this transaction's last activity
--   formerly      {"tables": [["schema", "name"], …], "columns": {"present": ["former", …], …}}
--   key           only this record, as the trail names it, through changes of its key
CREATE OR REPLACE FUNCTION @schema@.as_of(
    base anyelement, moment timestamptz DEFAULT NULL, activity bigint DEFAULT NULL, transaction bigint DEFAULT NULL,
    formerly jsonb DEFAULT '{}', key text DEFAULT NULL
)
RETURNS SETOF anyelement
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = postgres
SET bytea_output = hex
SET extra_float_digits = 1
SET lc_monetary = 'C'
SET xmloption = content
SET standard_conforming_strings = on
SET transform_null_equals = off
SET array_nulls = on
AS $function$
#variable_conflict use_variable
DECLARE
    _target oid := (
        SELECT c.oid
        FROM pg_type AS t
        JOIN pg_class AS c ON c.oid = t.typrelid
        WHERE t.oid = pg_typeof(base) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    );
    _place text;
    _past text;
    _emptied bigint;      -- the last truncation that counts
    _is_emptied boolean;  -- was there ever one?
    _partitions jsonb;
    _is_known boolean;
    _whole_from timestamptz;
BEGIN
    IF _target IS NULL THEN
        RAISE wrong_object_type USING
            MESSAGE = concat(pg_typeof(base), ' is not a table that can be tracked'),
            HINT = 'Pass a NULL of the table''s own type, such as NULL::article; of a partitioned table, the parent''s.';
    END IF;
    IF transaction IS NOT NULL THEN
        activity := coalesce(activity, (
            SELECT max(a.id) FROM @schema@.activity AS a WHERE a.transaction_id = transaction
        ));
    END IF;
    IF (moment IS NULL) = (activity IS NULL) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'as of when?',
            HINT = 'Pass a moment, or the id of an activity, or that of a transaction that is in the trail.';
    END IF;
    IF row_security_active(_target) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = concat(_target::regclass, ' hides rows from this role by row-level security'),
            HINT = 'Read as a role with BYPASSRLS, or as the owner of the table without FORCE.';
    END IF;
    formerly := '{"tables": [], "columns": {}}'::jsonb || coalesce(formerly, '{}');
    _place := @schema@.past_place(_target, formerly);
    _past := CASE WHEN moment IS NOT NULL THEN 'a.issued_at <= $1' ELSE 'a.id <= $2' END;

    _whole_from := @schema@.pruned_before(formerly -> 'tables' || (
        SELECT jsonb_build_array(jsonb_build_array(n.nspname, c.relname))
        FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.oid = _target
    ));
    IF coalesce(moment, (
        SELECT a.issued_at FROM @schema@.activity AS a WHERE a.id <= activity ORDER BY a.id DESC LIMIT 1
    ), '-infinity') < _whole_from THEN
        RAISE NOTICE USING MESSAGE = concat(
            'what ', _target::regclass, ' was before ', _whole_from, ' was removed from the trail by its retention policy'
        );
        RETURN;
    END IF;
    -- For one record, the query asks only where it has to: there is no index for this.
    IF _whole_from IS NOT NULL THEN
        _is_known := true;
    ELSIF key IS NULL THEN
        EXECUTE concat('SELECT EXISTS (SELECT FROM @schema@.activity AS a WHERE ', _place, ' AND ', _past, ')')
        INTO _is_known USING moment, activity;
    END IF;
    IF NOT _is_known AND NOT coalesce(moment >= transaction_timestamp(), false) THEN
        RAISE NOTICE USING MESSAGE = concat('nothing is known of ', _target::regclass, ' at that time: see known_since()');
        RETURN;
    END IF;

    -- Truncations have no identity, and by that a place of their own in the index. Those of a partition
    -- that is none any more count for the whole table.
    EXECUTE concat(
        'SELECT max(e.id) FILTER (WHERE e.is_past AND NOT e.is_part), coalesce(bool_or(NOT e.is_part), false),',
        ' coalesce(jsonb_object_agg(e.relid, e.last) FILTER (WHERE e.is_part), ''{}'')',
        ' FROM (SELECT a.id, a.relid, ', _past, ' AS is_past, max(a.id) FILTER (WHERE ', _past, ') OVER (PARTITION BY a.relid) AS last,',
        ' a.relid <> $3 AND EXISTS (SELECT FROM pg_partition_tree($3) AS p WHERE p.relid = a.relid) AS is_part',
        ' FROM @schema@.activity AS a WHERE a.object_id IS NULL AND a.verb = ''truncate'' AND ', _place,
        CASE WHEN _whole_from IS NOT NULL THEN concat(' AND a.issued_at >= ', quote_literal(_whole_from)) END, ') AS e'
    ) INTO _emptied, _is_emptied, _partitions USING moment, activity, _target;

    RETURN QUERY EXECUTE @schema@.past_query(
        _target, formerly, key IS NOT NULL, moment IS NOT NULL, _partitions, _whole_from
    )
    USING moment, activity, _emptied, formerly -> 'columns', _is_emptied, key;
END
$function$;

-- One record as it was; no row if it did not exist, or if that is not known.
--
--     SELECT * FROM audit.version_of(NULL::article, '1', '2026-05-01')
CREATE OR REPLACE FUNCTION @schema@.version_of(
    base anyelement, key text, moment timestamptz DEFAULT NULL, activity bigint DEFAULT NULL,
    transaction bigint DEFAULT NULL, formerly jsonb DEFAULT '{}'
)
RETURNS SETOF anyelement
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT r.* FROM @schema@.as_of(base, moment, activity, transaction, formerly, key) AS r WHERE key IS NOT NULL
$function$;

-- When the first activity of a table was recorded, or from when on its history was not pruned; before, nothing
-- is known of it.
CREATE OR REPLACE FUNCTION @schema@.known_since(base anyelement, formerly jsonb DEFAULT '{}')
RETURNS timestamptz
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _since timestamptz;
BEGIN
    EXECUTE concat(
        'SELECT min(a.issued_at) FROM @schema@.activity AS a WHERE ',
        @schema@.past_place(
            (SELECT t.typrelid FROM pg_type AS t WHERE t.oid = pg_typeof(base)),
            '{"tables": []}'::jsonb || coalesce(formerly, '{}')
        )
    ) INTO _since;
    RETURN coalesce(@schema@.pruned_before((
        SELECT jsonb_build_array(jsonb_build_array(n.nspname, c.relname)) || coalesce(formerly -> 'tables', '[]')
        FROM pg_type AS t
        JOIN pg_class AS c ON c.oid = t.typrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE t.oid = pg_typeof(base)
    )), _since);
END
$function$;
