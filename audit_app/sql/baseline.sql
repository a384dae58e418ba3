-- The rows that a table had before it was tracked: one activity with the verb "baseline" for each that
-- has no activity yet, in the form in which an insert is recorded.
--
-- A batch is a range of the primary key of one table that holds rows (a partition, or the table itself).
-- It works with the rights of its caller, who must be able to read the table, to lock its rows and to
-- write the trail. Safe to call again: a row that has an activity gets none.
--
--   target       the tracked table
--   leaf         the partition to read, or the table again
--   after        the key that the range begins after, as texts; NULL begins with the first
--   last         the key to end with, as the first batch returned it: rows that come later are captured,
--                and whoever ran after them might never arrive; NULL asks for it
--   batch_size   how many rows to look at
--   known_as     [[schema, table], …]: former names of the table in the trail
CREATE OR REPLACE FUNCTION @schema@.baseline_batch(
    target regclass, leaf regclass, after text[], last text[], batch_size int, known_as jsonb DEFAULT '[]'
)
RETURNS TABLE (until text[], final text[], seen bigint, added bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = postgres
SET bytea_output = hex
SET extra_float_digits = 1
SET lc_monetary = 'C'
SET standard_conforming_strings = on
SET transform_null_equals = off
SET array_nulls = on
SET enable_seqscan = off
AS $function$
#variable_conflict use_variable
DECLARE
    _schema oid := '@schema@'::regnamespace;
    _table record;
    _function record;
    _options jsonb;
    _columns text;      -- the key's columns, in its order
    _descending text;   -- the same, backwards
    _key text;          -- the same as an array of texts
    _aliased text;      -- the same under the aliases of key_expression()
    _lower text := '';
    _upper text;
    _end text;
    _names text;
    _places tid[];
    _context text := coalesce(current_setting('audit_app.context', true), '');
BEGIN
    SELECT n.nspname AS schema, c.relname AS name INTO _table
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = target;
    SELECT p.oid, p.prosrc INTO _function
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid = target AND starts_with(p.proname, 'capture_') AND p.pronamespace = _schema
    LIMIT 1;
    IF NOT FOUND THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = concat(target, ' is not tracked'),
            HINT = 'Track it first: flask audit install.';
    END IF;
    _options := @schema@.installed_options(_function.oid);
    -- The options name the columns that must not be stored as they were called when they were installed.
    IF _options IS NULL OR _function.prosrc <> @schema@.capture_body(
        target, _options, @schema@.planned_relation(_function.prosrc)
    ) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = concat(target, ' was altered after it was tracked'),
            HINT = 'Bring its triggers up to date first: flask audit install.';
    END IF;
    IF row_security_active(leaf) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = concat(leaf, ' hides rows from this role by row-level security'),
            HINT = 'Run this as a role with BYPASSRLS, or as the owner of the table without FORCE.';
    END IF;
    IF EXISTS (
        SELECT
        FROM pg_index AS i
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = target AND i.indisprimary AND NOT @schema@.is_trusted(@schema@.plain_type(a.atttypid))
    ) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = concat(target, ' has a key whose type is another role''s'),
            HINT = 'Give the type to the owner of the table: ALTER TYPE … OWNER TO ….';
    END IF;

    SELECT
        string_agg(concat('r.', quote_ident(a.attname)), ', ' ORDER BY k.ordinal),
        string_agg(concat('r.', quote_ident(a.attname), ' DESC'), ', ' ORDER BY k.ordinal),
        concat('ARRAY[', string_agg(concat('concat(r.', quote_ident(a.attname), ')'), ', ' ORDER BY k.ordinal), ']'),
        string_agg(concat('r.', quote_ident(a.attname), ' AS c', a.attnum), ', ' ORDER BY k.ordinal),
        string_agg(concat(quote_literal(after[k.ordinal]), '::', format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.ordinal)
    INTO _columns, _descending, _key, _aliased, _lower
    FROM pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, ordinal)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = target AND i.indisprimary AND k.ordinal <= i.indnkeyatts;
    _lower := CASE WHEN after IS NULL THEN 'true' ELSE concat('(', _columns, ') > (', _lower, ')') END;

    IF last IS NULL THEN
        EXECUTE concat(
            'SELECT ', _key, ' FROM ONLY ', leaf, ' AS r ORDER BY ', _descending, ' LIMIT 1'
        ) INTO last;
        IF last IS NULL THEN
            RETURN;
        END IF;
    END IF;
    final := last;
    SELECT concat('(', _columns, ') <= (', string_agg(
        concat(quote_literal(last[k.ordinal]), '::', format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.ordinal
    ), ')')
    INTO _end
    FROM pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, ordinal)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = target AND i.indisprimary AND k.ordinal <= i.indnkeyatts;

    -- Where the batch ends.
    EXECUTE concat(
        'SELECT b.key, b.number FROM (SELECT ', _key, ' AS key, row_number() OVER (ORDER BY ', _columns,
        ') AS number FROM ONLY ', leaf, ' AS r WHERE ', _lower, ' AND ', _end, ' ORDER BY ', _columns, ' LIMIT $1) AS b',
        ' ORDER BY b.number DESC LIMIT 1'
    ) INTO until, seen USING batch_size;
    IF until IS NULL THEN
        RETURN;
    END IF;
    SELECT concat('(', _columns, ') <= (', string_agg(
        concat(quote_literal(until[k.ordinal]), '::', format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.ordinal
    ), ')')
    INTO _upper
    FROM pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, ordinal)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = target AND i.indisprimary AND k.ordinal <= i.indnkeyatts;
    SELECT string_agg(DISTINCT concat('(', quote_literal(n.schema), ', ', quote_literal(n.name), ')'), ', ')
    INTO _names
    FROM (
        SELECT _table.schema::text, _table.name::text
        UNION ALL
        SELECT e.value ->> 0, e.value ->> 1 FROM jsonb_array_elements(known_as) AS e
    ) AS n (schema, name);

    -- First the rows are locked, then they are read by a statement of its own: whoever wrote to one of them
    -- before has committed, and what it left in the trail is seen; whoever wants to write waits, another
    -- backfill too. So no row gets its baseline twice, or after its first change.
    EXECUTE concat(
        'SELECT array_agg(l.place) FROM (SELECT r.ctid AS place FROM ONLY ', leaf, ' AS r CROSS JOIN LATERAL (SELECT ', _aliased,
        ') AS k WHERE ', _lower, ' AND ', _upper, ' AND ', @schema@.unrecorded_expression(target, 'k', _names),
        ' FOR NO KEY UPDATE OF r) AS l'
    ) INTO _places;
    added := 0;
    IF _places IS NOT NULL THEN
        PERFORM set_config('audit_app.context', jsonb_build_object(
            'actor_id', 'audit-baseline',
            'actor_label', 'Audit baseline',
            'reason', 'The state in which recording began',
            'metadata', jsonb_build_object('baseline', target::text)
        )::text, true);
        PERFORM set_config('audit_app.writer', @schema@.caller(), true);
        EXECUTE concat(
            @schema@.capture_statement(
                target, 'BASELINE', _options - 'query_text', NULL,
                target::oid::text, quote_literal(_table.schema), quote_literal(_table.name),
                '', concat('(SELECT * FROM ONLY ', leaf, ' WHERE ctid = ANY ($1))')
            ),
            ' AND ', @schema@.unrecorded_expression(target, 'n', _names)
        ) USING _places;
        GET DIAGNOSTICS added = ROW_COUNT;
        PERFORM set_config('audit_app.context', _context, true);
    END IF;
    RETURN NEXT;
END
$function$;

-- Has the row no activity yet, under its key or one that it came to have? As sub-selects with a limit and
-- not as an anti-join, which would be planned to read the whole trail for each batch.
CREATE OR REPLACE FUNCTION @schema@.unrecorded_expression(target oid, alias text, names text)
RETURNS text
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT string_agg(
        concat(
            '(SELECT a.id FROM @schema@.activity AS a WHERE a.', c.name, ' = (', @schema@.key_expression(target, alias),
            ') COLLATE "default" AND (a.schema_name, a.table_name) IN (', names, ') LIMIT 1) IS NULL'
        ), ' AND '
    )
    FROM (VALUES ('object_id'), ('new_object_id')) AS c (name)
$function$;
