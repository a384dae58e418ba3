-- Retention: what a policy has outlived goes, and each pruning is a row of the trail itself (verb "prune").
-- Without that row of the same transaction the guards of the trail refuse the delete: see refuse(). Whoever may
-- prune has these functions for it and nothing else; they keep what a hold keeps, and what is younger than the
-- floor, whatever policy they are given.
--
-- Estimates of many partitions are high, and compiling such a plan takes longer than to run it: hence jit = off.
--
-- Marks of holds stand together in the index, under object_id('hold'); marks of what a table lost, under its name.

-- One at a time: a pruning must not meet another, nor a rewriting of what it has just looked at.
CREATE OR REPLACE FUNCTION @schema@.claim_history(waits boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _key int := hashoid('@schema@.activity'::regclass);
BEGIN
    IF waits THEN
        PERFORM pg_advisory_xact_lock(1096108356, _key);
    ELSIF NOT pg_try_advisory_xact_lock(1096108356, _key) THEN
        RAISE lock_not_available USING
            MESSAGE = 'the trail is being pruned or rewritten by another session',
            HINT = 'Try again when it has ended. Nothing was changed.';
    END IF;
END
$function$;

-- How young a row must not be to go. Set by the owner; the newest mark counts.
CREATE OR REPLACE FUNCTION @schema@.prune_floor()
RETURNS interval
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce((
        SELECT (a.changed_data ->> 'floor')::interval
        FROM @schema@.activity AS a
        WHERE a.object_id = @schema@.object_id('floor') AND a.table_name = 'activity'
          AND a.schema_name = @schema_literal@ AND a.verb = 'floor'
        ORDER BY a.id DESC
        LIMIT 1
    ), '30 days')
$function$;

CREATE OR REPLACE FUNCTION @schema@.set_prune_floor(floor interval)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET IntervalStyle = postgres
AS $function$
BEGIN
    IF floor IS NULL OR floor < '0' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = concat('the floor cannot be ', coalesce(floor::text, 'unknown')),
            HINT = 'Say how old a row must be at least before it may go, such as 30 days.';
    END IF;
    RETURN m.id FROM @schema@.mark('floor', jsonb_build_object('floor', floor), 'floor') AS m;
END
$function$;

-- Keep what fits from being pruned, until the hold is released.
--
--   facts   any of "names": [["schema", "table"], …], all names of one table; "record": its key; "actor": an id;
--           "since", "until": moments; with the "reason"
CREATE OR REPLACE FUNCTION @schema@.add_hold(facts jsonb)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
AS $function$
BEGIN
    IF jsonb_typeof(facts) IS DISTINCT FROM 'object' OR octet_length(facts::text) > 100000
        OR NOT facts ?| '{names,actor,since,until}' OR facts ? 'record' AND NOT facts ? 'names'
        OR coalesce(trim(facts ->> 'reason'), '') = ''
        OR facts ? 'names' AND (jsonb_typeof(facts -> 'names') <> 'array' OR facts -> 'names' = '[]')
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'this is no hold',
            HINT = 'Name a table (and a record of it), an actor or a time, and the reason.';
    END IF;
    RETURN m.id
    FROM @schema@.mark('hold', jsonb_strip_nulls(jsonb_build_object(
        'names', facts -> 'names', 'places', (
            SELECT jsonb_agg(concat(n.value ->> 0, '.', n.value ->> 1)) FROM jsonb_array_elements(facts -> 'names') AS n
        ), 'record', facts ->> 'record', 'actor', facts ->> 'actor', 'reason', facts ->> 'reason',
        'os_user', facts ->> 'os_user',
        'since', (facts ->> 'since')::timestamptz, 'until', (facts ->> 'until')::timestamptz
    )), 'hold') AS m;
END
$function$;

CREATE OR REPLACE FUNCTION @schema@.release_hold(hold bigint, facts jsonb)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _places jsonb;
BEGIN
    SELECT h.facts -> 'places' INTO _places FROM @schema@.holds() AS h WHERE h.id = hold;
    IF NOT FOUND THEN
        RAISE no_data_found USING
            MESSAGE = concat('there is no hold ', hold),
            HINT = 'See flask audit hold list: it may have been released already.';
    END IF;
    RETURN m.id
    FROM @schema@.mark('release', jsonb_strip_nulls(jsonb_build_object(
        'hold', hold, 'places', _places, 'reason', facts ->> 'reason', 'os_user', facts ->> 'os_user'
    )), 'hold') AS m;
END
$function$;

-- The holds that count, among them what was restored for a while. "names" are all names that the table has had:
-- those that the hold was given, those that a rewriting gave it since, and those that the caller knows of.
--
--   same   [[["schema", "table"], …], …]: names of one table each
CREATE OR REPLACE FUNCTION @schema@.holds(same jsonb DEFAULT '[]')
RETURNS TABLE (id bigint, issued_at timestamptz, verb text, facts jsonb, names jsonb, actor text, role_name text)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $function$
    WITH RECURSIVE found AS (
        SELECT a.id, a.issued_at, a.verb, a.changed_data AS facts, a.transaction_id
        FROM @schema@.activity AS a
        WHERE a.object_id = @schema@.object_id('hold') AND a.table_name = 'activity' AND a.schema_name = @schema_literal@
          AND CASE a.verb
              WHEN 'hold' THEN NOT EXISTS (
                  SELECT
                  FROM @schema@.activity AS r
                  WHERE r.object_id = a.object_id AND r.table_name = a.table_name AND r.schema_name = a.schema_name
                    AND r.verb = 'release' AND r.changed_data ->> 'hold' = a.id::text
              )
              WHEN 'restore' THEN (a.changed_data ->> 'keep_until')::timestamptz > statement_timestamp()
              ELSE false
          END
    ),
    named (id, schema_name, table_name) AS (
        SELECT f.id, n.value ->> 0, n.value ->> 1
        FROM found AS f
        CROSS JOIN LATERAL jsonb_array_elements(f.facts -> 'names') AS n
        UNION
        SELECT n.id, o.schema_name, o.table_name
        FROM named AS n
        CROSS JOIN LATERAL (
            SELECT a.changed_data -> 'arguments' ->> 'schema', a.changed_data -> 'arguments' ->> 'table'
            FROM @schema@.activity AS a
            WHERE a.object_id = @schema@.object_id(concat(quote_ident(n.schema_name), '.', quote_ident(n.table_name)))
              AND a.table_name = 'activity' AND a.schema_name = @schema_literal@
              AND a.verb = 'rewrite' AND a.changed_data ->> 'operation' = 'rename_table'
            UNION ALL
            SELECT p.value ->> 0, p.value ->> 1
            FROM jsonb_array_elements(same) AS s
            CROSS JOIN LATERAL jsonb_array_elements(s.value) AS p
            WHERE s.value @> jsonb_build_array(jsonb_build_array(n.schema_name, n.table_name))
        ) AS o (schema_name, table_name)
    )
    SELECT
        f.id, f.issued_at, f.verb, f.facts,
        (
            SELECT jsonb_agg(jsonb_build_array(n.schema_name, n.table_name) ORDER BY n.schema_name, n.table_name)
            FROM named AS n
            WHERE n.id = f.id
        ),
        coalesce(t.actor_label, t.actor_id), t.role_name
    FROM found AS f
    LEFT JOIN @schema@.transaction AS t ON t.id = f.transaction_id
    ORDER BY f.id
$function$;

-- Up to when the policy lets the rows of a table and verb go; "-infinity" lets none go. What the trail says of
-- itself goes only where its verb is named, and the record of prunings, holds and rewritings never.
--
--   rules   {"default": {verb or "default": moment}, "tables": {schema: {table: {verb or "default": moment}}}}
CREATE OR REPLACE FUNCTION @schema@.cutoff(rules jsonb, schema_name text, table_name text, verb text)
RETURNS timestamptz
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
AS $function$
    SELECT CASE
        WHEN verb IN ('insert', 'update', 'delete', 'truncate', 'baseline') THEN coalesce(
            t.rule ->> verb, t.rule ->> 'default', rules -> 'default' ->> verb, rules -> 'default' ->> 'default', '-infinity'
        )
        WHEN verb IN ('suspend', 'resume', 'gap', 'export') THEN coalesce(t.rule ->> verb, '-infinity')
        ELSE '-infinity'
    END::timestamptz
    FROM (SELECT rules -> 'tables' -> schema_name -> table_name) AS t (rule)
$function$;

-- Refuse rules that let younger rows go than the floor allows.
CREATE OR REPLACE FUNCTION @schema@.require_rules(rules jsonb)
RETURNS void
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET IntervalStyle = postgres
AS $function$
DECLARE
    _youngest timestamptz;
BEGIN
    SELECT max((r.value #>> '{}')::timestamptz) INTO _youngest
    FROM (
        SELECT jsonb_path_query(rules, '$.default.*')
        UNION ALL
        SELECT jsonb_path_query(rules, '$.tables.*.*.*')
    ) AS r (value);
    IF _youngest > (statement_timestamp() AT TIME ZONE 'UTC' - @schema@.prune_floor()) AT TIME ZONE 'UTC' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = concat('the policy lets rows go that are younger than the floor of this trail, ', @schema@.prune_floor()),
            HINT = 'Keep them longer, or have the owner of the trail lower the floor: flask audit grant --prune-floor ….';
    END IF;
END
$function$;

-- The rows among the ids after "after", up to "until", that the policy has outlived; with "told", each as it
-- stands in an archive, by which it is digested.
CREATE OR REPLACE FUNCTION @schema@.outlived(rules jsonb, after bigint, until bigint, told boolean)
RETURNS TABLE (
    id bigint, transaction_id bigint, issued_at timestamptz, schema_name text, table_name text, verb text,
    is_held boolean, line text
)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
#variable_conflict use_column
BEGIN
    PERFORM @schema@.require_rules(rules);
    RETURN QUERY
    WITH
    hold AS MATERIALIZED (
        SELECT h.*
        FROM @schema@.holds(coalesce(rules -> 'same', '[]')) AS f
        CROSS JOIN LATERAL jsonb_to_record(f.facts || jsonb_build_object('names', f.names)) AS h (
            names jsonb, record text, actor text, since timestamptz, until timestamptz, first bigint, last bigint
        )
    ),
    cutoff AS MATERIALIZED (
        SELECT k.*, @schema@.cutoff(rules, k.schema_name, k.table_name, k.verb) AS before
        FROM (
            SELECT DISTINCT a.schema_name, a.table_name, a.verb
            FROM @schema@.activity AS a
            WHERE a.id > $2 AND a.id <= $3
        ) AS k
    )
    SELECT
        a.id, a.transaction_id, a.issued_at, a.schema_name, a.table_name, a.verb,
        EXISTS (
            SELECT
            FROM hold AS h
            WHERE (coalesce(h.names, 'null') = 'null' OR h.names @> jsonb_build_array(jsonb_build_array(a.schema_name, a.table_name)))
              AND (h.record IS NULL OR h.record IN (a.object_id, a.new_object_id) OR a.verb = 'truncate')
              AND (h.actor IS NULL OR h.actor = t.actor_id)
              AND (h.since IS NULL OR a.issued_at >= h.since)
              AND (h.until IS NULL OR a.issued_at < h.until)
              AND (h.first IS NULL OR a.id BETWEEN h.first AND h.last)
        ),
        -- An activity with its transaction in one line of JSON, exact.
        CASE WHEN told THEN concat(
            '{"activity":', row_to_json(a), ',"transaction":', CASE WHEN t.id IS NULL THEN 'null' ELSE row_to_json(t)::text END, '}'
        ) END
    FROM @schema@.activity AS a
    JOIN cutoff AS c ON c.schema_name = a.schema_name AND c.table_name = a.table_name AND c.verb = a.verb
    LEFT JOIN @schema@.transaction AS t ON t.id = a.transaction_id
    WHERE a.id > $2 AND a.id <= $3 AND a.issued_at < c.before
    ORDER BY a.id;
END
$function$;

-- The id at which a batch ends: that of the last of the next rows; NULL if there are none.
CREATE OR REPLACE FUNCTION @schema@.prune_window(after bigint, until bigint, most int)
RETURNS bigint
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $function$
    SELECT max(w.id)
    FROM (SELECT a.id FROM @schema@.activity AS a WHERE a.id > after AND a.id <= until ORDER BY a.id LIMIT most) AS w
$function$;

-- Where the trail begins, and an id beyond which nothing is expected to be older than a moment. A statement that
-- wrote later under an earlier moment is left to the next run.
CREATE OR REPLACE FUNCTION @schema@.prune_extent(before timestamptz, OUT first bigint, OUT last bigint)
RETURNS record
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $function$
    SELECT
        (SELECT min(a.id) FROM @schema@.activity AS a),
        (
            SELECT max(n.id)
            FROM (
                SELECT t.id FROM @schema@.transaction AS t WHERE t.issued_at < before ORDER BY t.issued_at DESC, t.id DESC LIMIT 1000
            ) AS t
            CROSS JOIN LATERAL (
                SELECT a.id FROM @schema@.activity AS a WHERE a.transaction_id = t.id ORDER BY a.id DESC LIMIT 1
            ) AS n
        )
$function$;

-- What would go from a batch, and what a hold keeps of it, by table and verb.
CREATE OR REPLACE FUNCTION @schema@.prune_preview(rules jsonb, after bigint, until bigint)
RETURNS TABLE (
    schema_name text, table_name text, verb text, "rows" bigint, held bigint, since timestamptz, until_at timestamptz
)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $function$
    SELECT
        o.schema_name, o.table_name, o.verb, count(*) FILTER (WHERE NOT o.is_held), count(*) FILTER (WHERE o.is_held),
        min(o.issued_at) FILTER (WHERE NOT o.is_held), max(o.issued_at) FILTER (WHERE NOT o.is_held)
    FROM @schema@.outlived(rules, after, until, false) AS o
    GROUP BY 1, 2, 3
$function$;

-- The rows of a batch as an archive keeps them.
--
--   lower, upper   of the partition that is to go as a whole; NULL for all rows
CREATE OR REPLACE FUNCTION @schema@.archive_batch(
    rules jsonb, after bigint, until bigint, lower timestamptz DEFAULT NULL, upper timestamptz DEFAULT NULL
)
RETURNS TABLE (id bigint, issued_at timestamptz, schema_name text, table_name text, verb text, line text)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $function$
    SELECT o.id, o.issued_at, o.schema_name, o.table_name, o.verb, o.line
    FROM @schema@.outlived(rules, after, until, true) AS o
    WHERE NOT o.is_held AND (lower IS NULL OR o.issued_at >= lower) AND (upper IS NULL OR o.issued_at < upper)
    ORDER BY o.id
$function$;

-- The digest of a row and of all before it.
CREATE OR REPLACE FUNCTION @schema@.chained(chain bytea, line text)
RETURNS bytea
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT pg_catalog.sha256(
        chain OPERATOR(pg_catalog.||) pg_catalog.sha256(pg_catalog.convert_to(line, 'UTF8'))
    )
$function$;

-- Delete what the policy has outlived among the ids after "after", up to "until", and leave a record of it. A
-- transaction goes with the last of its activities.
--
--   run        of the marks that belong together
--   previous   the digest of the batch before, in hexadecimal
--   expected   the digest that the batch has in an archive: with another one nothing is deleted. NULL without an
--              archive
--   facts      what else is to be kept in the mark: the name of the archive, the user of the operating system
--
-- Returns the number of rows that went, and the digest.
CREATE OR REPLACE FUNCTION @schema@.prune_batch(
    rules jsonb, after bigint, until bigint, run text, previous text, expected text, facts jsonb,
    OUT "rows" bigint, OUT transactions bigint, OUT digest text
)
RETURNS record
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
SET TimeZone = 'UTC'
AS $function$
#variable_conflict use_variable
DECLARE
    _chain bytea := decode(previous, 'hex');
    _ids bigint[] := '{}';
    _transactions bigint[] := '{}';
    _since timestamptz;
    _until timestamptz;
    _row record;
    _count bigint;
BEGIN
    PERFORM @schema@.claim_history(false);
    FOR _row IN SELECT o.* FROM @schema@.outlived(rules, after, until, true) AS o WHERE NOT o.is_held ORDER BY o.id LOOP
        _chain := @schema@.chained(_chain, _row.line);
        _ids := array_append(_ids, _row.id);
        _transactions := array_append(_transactions, _row.transaction_id);
        _since := least(_since, _row.issued_at);
        _until := greatest(_until, _row.issued_at);
    END LOOP;
    digest := encode(_chain, 'hex');
    "rows" := 0;
    transactions := 0;
    IF _ids = '{}' OR expected <> digest THEN
        RETURN;
    END IF;

    -- Those that have no other activity than these. Of a large one, no more is counted than tells.
    SELECT array_agg(t.id) INTO _transactions
    FROM (SELECT u.id, count(*) AS number FROM unnest(_transactions) AS u (id) GROUP BY u.id) AS i
    JOIN @schema@.transaction AS t ON t.id = i.id
    WHERE i.number = (
        SELECT count(*)
        FROM (SELECT FROM @schema@.activity AS a WHERE a.transaction_id = t.id LIMIT i.number + 1) AS a
    );
    PERFORM @schema@.begin_prune(rules, run, facts || jsonb_build_object(
        'rows', cardinality(_ids), 'transactions', coalesce(cardinality(_transactions), 0),
        'first', _ids[1], 'last', _ids[cardinality(_ids)], 'since', _since, 'until', _until,
        'previous', previous, 'digest', digest
    ), (
        SELECT jsonb_agg(to_jsonb(g) ORDER BY g.schema, g.table, g.verb)
        FROM (
            SELECT
                a.schema_name AS schema, a.table_name AS table, a.verb, count(*) AS rows,
                @schema@.cutoff(rules, a.schema_name, a.table_name, a.verb) AS before
            FROM @schema@.activity AS a
            WHERE a.id = ANY (_ids) AND a.issued_at BETWEEN _since AND _until
            GROUP BY 1, 2, 3
        ) AS g
    ));
    DELETE FROM @schema@.activity AS a WHERE a.id = ANY (_ids) AND a.issued_at BETWEEN _since AND _until;
    GET DIAGNOSTICS "rows" = ROW_COUNT;
    IF "rows" <> cardinality(_ids) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'the trail was changed while it was pruned',
            HINT = 'Nothing was changed. Find out by whom, and run this again.';
    END IF;
    DELETE FROM @schema@.transaction AS t WHERE t.id = ANY (_transactions);
    GET DIAGNOSTICS transactions = ROW_COUNT;
    PERFORM set_config('audit_app.rewrite', '', true);
END
$function$;

-- Leave the mark that lets this transaction delete, until the setting is emptied; and one for each table that
-- loses rows in this run, by which the pages of its records find out from when on its history is whole.
--
--   parts   [{"schema", "table", "verb", "rows", "before"}, …]: what goes
CREATE OR REPLACE FUNCTION @schema@.begin_prune(rules jsonb, run text, facts jsonb, parts jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
AS $function$
#variable_conflict use_variable
DECLARE
    _place record;
    _relation text;
    _before timestamptz;
BEGIN
    IF EXISTS (SELECT FROM (VALUES ('activity'), ('transaction')) AS t (name) CROSS JOIN LATERAL @schema@.copies(t.name)) THEN
        RAISE object_in_use USING
            MESSAGE = 'the history is being split into partitions, and cannot be pruned until that is done',
            HINT = 'Nothing was changed. Finish it first: flask audit partition --split.';
    END IF;
    FOR _place IN
        SELECT DISTINCT p.value ->> 'schema' AS schema, p.value ->> 'table' AS table
        FROM jsonb_array_elements(parts) AS p
    LOOP
        _relation := concat(quote_ident(_place.schema), '.', quote_ident(_place.table));
        CONTINUE WHEN EXISTS (
            SELECT
            FROM @schema@.activity AS a
            WHERE a.object_id = @schema@.object_id(_relation) AND a.table_name = 'activity'
              AND a.schema_name = @schema_literal@ AND a.verb = 'prune' AND a.changed_data ->> 'run' = run
        );
        SELECT max(@schema@.cutoff(rules, _place.schema, _place.table, v.verb)) INTO _before
        FROM (VALUES ('insert'), ('update'), ('delete'), ('truncate'), ('baseline')) AS v (verb);
        PERFORM @schema@.mark('prune', jsonb_build_object(
            'run', run, 'schema', _place.schema, 'table', _place.table,
            'places', ARRAY[concat(_place.schema, '.', _place.table)], 'before', nullif(_before, '-infinity')
        ), _relation);
    END LOOP;
    PERFORM @schema@.allow('prune', facts || jsonb_build_object('run', run, 'tables', parts, 'places', (
        SELECT coalesce(jsonb_agg(DISTINCT concat(p.value ->> 'schema', '.', p.value ->> 'table')), '[]')
        FROM jsonb_array_elements(parts) AS p
    )));
END
$function$;

-- The partitions that the policy has outlived as a whole, but for the trail's own marks: the oldest first, with the
-- ids of their rows. Those of the transactions are told by their bounds alone.
CREATE OR REPLACE FUNCTION @schema@.prunable_partitions(rules jsonb, before timestamptz)
RETURNS TABLE (
    parent text, relation text, lower timestamptz, upper timestamptz, first bigint, last bigint, "rows" bigint
)
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $function$
#variable_conflict use_column
DECLARE
    _part record;
    _is_outlived boolean;
BEGIN
    FOR _part IN
        SELECT p.* FROM @schema@.partitions() AS p WHERE NOT p.is_default AND p.upper <= $2 ORDER BY p.parent, p.upper
    LOOP
        parent := _part.parent;
        relation := _part.relation;
        lower := _part.lower;
        upper := _part.upper;
        IF parent = 'activity' THEN
            EXECUTE concat(
                'SELECT min(g.first), max(g.last), coalesce(sum(g.rows), 0),',
                ' coalesce(bool_and(g.verb NOT IN (', @schema@.row_verbs(), ') OR g.newest < @schema@.cutoff($1, g.schema_name, g.table_name, g.verb)), true)',
                ' FROM (SELECT t.schema_name, t.table_name, t.verb, min(t.id) AS first, max(t.id) AS last, count(*) AS rows,',
                ' max(t.issued_at) AS newest FROM ONLY ', relation, ' AS t GROUP BY 1, 2, 3) AS g'
            ) INTO first, last, "rows", _is_outlived USING rules;
            CONTINUE WHEN NOT _is_outlived;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$function$;

-- Drop a partition of which nothing is to be kept, and leave a record of it as prune_batch() does. The trail's own
-- marks in it are kept: they go to the default partition. Nothing happens where rows are to be kept, or where the
-- digest is not the expected one.
--
-- Locks the trail against everybody only after it has read the partition, and then counts the rows once more.
CREATE OR REPLACE FUNCTION @schema@.prune_partition(
    rules jsonb, partition text, run text, previous text, expected text, facts jsonb,
    OUT "rows" bigint, OUT digest text
)
RETURNS record
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
SET TimeZone = 'UTC'
AS $function$
#variable_conflict use_variable
DECLARE
    _chain bytea := decode(previous, 'hex');
    _part record;
    _row record;
    _parts jsonb;
    _first bigint;
    _last bigint;
    _since timestamptz;
    _until timestamptz;
    _marks bigint;
    _count bigint;
    _after bigint;
    _to bigint;
    _is_mark text := concat('(t.verb NOT IN (', @schema@.row_verbs(), '))');
BEGIN
    PERFORM @schema@.claim_history(false);
    PERFORM @schema@.take_turns();
    digest := previous;
    SELECT p.* INTO _part
    FROM @schema@.partitions() AS p
    WHERE p.parent = 'activity' AND p.relation::text = partition AND NOT p.is_default AND p.upper IS NOT NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    EXECUTE concat(
        'SELECT count(*), min(t.id), max(t.id), count(*) FILTER (WHERE ', _is_mark, ') FROM ONLY ', _part.relation, ' AS t'
    ) INTO _count, _first, _last, _marks;
    "rows" := 0;
    _after := _first - 1;
    LOOP
        _to := @schema@.prune_window(_after, _last, 10000);
        EXIT WHEN _to IS NULL;
        FOR _row IN
            SELECT o.* FROM @schema@.outlived(rules, _after, _to, true) AS o
            WHERE NOT o.is_held AND o.issued_at >= coalesce(_part.lower, '-infinity') AND o.issued_at < _part.upper
            ORDER BY o.id
        LOOP
            _chain := @schema@.chained(_chain, _row.line);
            "rows" := "rows" + 1;
            _since := least(_since, _row.issued_at);
            _until := greatest(_until, _row.issued_at);
        END LOOP;
        _after := _to;
    END LOOP;
    digest := encode(_chain, 'hex');
    -- What holds nothing but marks is kept: it would come back from the default partition.
    IF "rows" + _marks <> _count OR ("rows" = 0 AND _count > 0) OR expected <> digest THEN
        "rows" := NULL;
        RETURN;
    END IF;
    EXECUTE concat(
        'SELECT coalesce(jsonb_agg(to_jsonb(g) ORDER BY g.schema, g.table, g.verb), ''[]'') FROM (SELECT t.schema_name AS schema,',
        ' t.table_name AS table, t.verb, count(*) AS rows, @schema@.cutoff($1, t.schema_name, t.table_name, t.verb) AS before',
        ' FROM ONLY ', _part.relation, ' AS t WHERE NOT ', _is_mark, ' GROUP BY 1, 2, 3) AS g'
    ) INTO _parts USING rules;
    -- The parent first, as everybody else locks it.
    LOCK TABLE @schema@.activity IN ACCESS EXCLUSIVE MODE;
    EXECUTE concat('SELECT count(*) - $1 FROM ONLY ', _part.relation) INTO _count USING _count;
    IF _count <> 0 THEN
        RAISE serialization_failure USING
            MESSAGE = concat(_part.relation, ' was written to while it was read'),
            HINT = 'Nothing was changed. Run this again.';
    END IF;
    PERFORM @schema@.begin_prune(rules, run, facts || jsonb_build_object(
        'partition', partition, 'rows', "rows", 'first', _first, 'last', _last, 'since', _since, 'until', _until,
        'previous', previous, 'digest', digest
    ), _parts);
    EXECUTE concat('ALTER TABLE @schema@.activity DETACH PARTITION ', _part.relation);
    EXECUTE concat(
        'INSERT INTO @schema@.activity OVERRIDING SYSTEM VALUE SELECT t.* FROM ', _part.relation, ' AS t WHERE ', _is_mark
    );
    EXECUTE concat('DROP TABLE ', _part.relation);
    PERFORM set_config('audit_app.rewrite', '', true);
END
$function$;

-- Drop a partition of the transactions to which no activity refers any more; false where one does.
CREATE OR REPLACE FUNCTION @schema@.prune_transaction_partition(before timestamptz, partition text, run text, facts jsonb)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
SET TimeZone = 'UTC'
AS $function$
#variable_conflict use_variable
DECLARE
    _part record;
    _count bigint;
    _is_used boolean;
BEGIN
    PERFORM @schema@.claim_history(false);
    PERFORM @schema@.take_turns();
    PERFORM @schema@.require_rules(jsonb_build_object('default', jsonb_build_object('default', before)));
    SELECT p.* INTO _part
    FROM @schema@.partitions() AS p
    WHERE p.parent = 'transaction' AND p.relation::text = partition AND NOT p.is_default AND p.upper <= before;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE concat(
        'SELECT EXISTS (SELECT FROM ONLY ', _part.relation, ' AS t WHERE EXISTS (SELECT FROM @schema@.activity AS a WHERE a.transaction_id = t.id)',
        ' OR EXISTS (SELECT FROM @schema@.holds() AS h WHERE h.facts ->> ''actor'' = t.actor_id))'
    ) INTO _is_used;
    IF _is_used THEN
        RETURN false;
    END IF;
    LOCK TABLE @schema@.transaction IN ACCESS EXCLUSIVE MODE;
    EXECUTE concat('SELECT count(*) FROM ONLY ', _part.relation) INTO _count;
    PERFORM @schema@.begin_prune('{}', run, facts || jsonb_build_object(
        'partition', partition, 'rows', 0, 'transactions', _count, 'before', before
    ), '[]');
    EXECUTE concat('DROP TABLE ', _part.relation);
    PERFORM set_config('audit_app.rewrite', '', true);
    RETURN true;
END
$function$;

-- Delete transactions without any activity that are older than a moment: their activities went before, or a
-- savepoint was rolled back. Returns their number.
CREATE OR REPLACE FUNCTION @schema@.prune_transactions(before timestamptz, most int, run text, facts jsonb)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET jit = off
SET TimeZone = 'UTC'
AS $function$
#variable_conflict use_variable
DECLARE
    _ids bigint[];
BEGIN
    PERFORM @schema@.claim_history(false);
    PERFORM @schema@.require_rules(jsonb_build_object('default', jsonb_build_object('default', before)));
    SELECT array_agg(o.id) INTO _ids
    FROM (
        SELECT t.id
        FROM @schema@.transaction AS t
        WHERE t.issued_at < before
          AND NOT EXISTS (SELECT FROM @schema@.activity AS a WHERE a.transaction_id = t.id)
          AND NOT EXISTS (
              SELECT FROM @schema@.holds() AS h
              WHERE h.facts ->> 'actor' = t.actor_id
          )
        ORDER BY t.issued_at, t.id
        LIMIT most
    ) AS o;
    IF _ids IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM @schema@.begin_prune('{}', run, facts || jsonb_build_object(
        'rows', 0, 'transactions', cardinality(_ids), 'before', before
    ), '[]');
    DELETE FROM @schema@.transaction AS t WHERE t.id = ANY (_ids);
    PERFORM set_config('audit_app.rewrite', '', true);
    RETURN cardinality(_ids);
END
$function$;

-- From when on the history of a table is whole, and when what came before was removed; NULL if nothing was. A
-- run whose archive is restored for now does not count.
--
--   names   [["schema", "table"], …]: all names of the table
CREATE OR REPLACE FUNCTION @schema@.pruned_before(names jsonb)
RETURNS timestamptz
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $function$
    SELECT max((a.changed_data ->> 'before')::timestamptz)
    FROM jsonb_array_elements(names) AS n
    JOIN @schema@.activity AS a
        ON a.object_id = @schema@.object_id(concat(quote_ident(n.value ->> 0), '.', quote_ident(n.value ->> 1)))
    WHERE a.table_name = 'activity' AND a.schema_name = @schema_literal@ AND a.verb = 'prune'
      AND NOT EXISTS (
          SELECT
          FROM @schema@.activity AS r
          WHERE r.object_id = a.object_id AND r.table_name = 'activity' AND r.schema_name = @schema_literal@
            AND r.verb = 'restore' AND r.changed_data ->> 'run' = a.changed_data ->> 'run'
            AND (r.changed_data ->> 'keep_until')::timestamptz > statement_timestamp()
      )
$function$;

-- Bring rows of an archive back, with their ids: for the owner of the trail, since nobody else may say what was.
-- A row that is there already is left alone, and one that differs from it is refused.
--
--   lines   of archive_batch()
--
-- Returns the number of activities that came.
CREATE OR REPLACE FUNCTION @schema@.restore_lines(lines text[])
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    _line text;
    _activity @schema@.activity;
    _transaction @schema@.transaction;
    _there record;
    _count bigint := 0;
    _last record;
BEGIN
    EXECUTE concat(
        'SELECT a.last_value AS activity, t.last_value AS transaction FROM ',
        pg_get_serial_sequence('@schema@.activity', 'id'), ' AS a, ', pg_get_serial_sequence('@schema@.transaction', 'id'), ' AS t'
    ) INTO _last;
    FOREACH _line IN ARRAY lines LOOP
        _activity := json_populate_record(NULL::@schema@.activity, _line::json -> 'activity');
        _transaction := json_populate_record(NULL::@schema@.transaction, _line::json -> 'transaction');
        IF NOT _activity.verb IN ('insert', 'update', 'delete', 'truncate', 'baseline', 'suspend', 'resume', 'gap', 'export') THEN
            RAISE invalid_parameter_value USING
                MESSAGE = concat('the activity ', _activity.id, ' of the archive is a record of the trail''s own: ', _activity.verb),
                HINT = 'Such rows are never pruned: this is no archive of this trail. Nothing was changed.';
        END IF;
        IF _activity.id > _last.activity OR _transaction.id > _last.transaction THEN
            RAISE invalid_parameter_value USING
                MESSAGE = concat('the activity ', _activity.id, ' of the archive has an id that this trail has not given yet'),
                HINT = 'This is the archive of another trail. Nothing was changed.';
        END IF;
        IF _transaction.id IS NOT NULL THEN
            SELECT row_to_json(t)::text AS text INTO _there FROM @schema@.transaction AS t WHERE t.id = _transaction.id;
            IF NOT FOUND THEN
                INSERT INTO @schema@.transaction OVERRIDING SYSTEM VALUE SELECT _transaction.*;
            ELSIF _there.text <> row_to_json(_transaction)::text THEN
                RAISE invalid_parameter_value USING
                    MESSAGE = concat('the transaction ', _transaction.id, ' of the archive differs from the one in the trail'),
                    HINT = 'One of the two was altered, or history was rewritten since. Nothing was changed.';
            END IF;
        END IF;
        SELECT row_to_json(a)::text AS text INTO _there FROM @schema@.activity AS a WHERE a.id = _activity.id;
        IF NOT FOUND THEN
            INSERT INTO @schema@.activity OVERRIDING SYSTEM VALUE SELECT _activity.*;
            _count := _count + 1;
        ELSIF _there.text <> row_to_json(_activity)::text THEN
            RAISE invalid_parameter_value USING
                MESSAGE = concat('the activity ', _activity.id, ' of the archive differs from the one in the trail'),
                HINT = 'One of the two was altered, or history was rewritten since. Nothing was changed.';
        END IF;
    END LOOP;
    RETURN _count;
END
$function$;

-- The marks of a restored archive: one that keeps its rows from being pruned again, and one for each table, under
-- whose name its history counts as whole again for that time.
--
--   parts   [{"schema", "table", "rows"}, …]
CREATE OR REPLACE FUNCTION @schema@.record_restore(facts jsonb, parts jsonb, keep interval)
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
AS $function$
#variable_conflict use_variable
DECLARE
    _until timestamptz := statement_timestamp() + keep;
    _place record;
    _places jsonb := '[]';
BEGIN
    FOR _place IN
        SELECT p.value ->> 'schema' AS schema, p.value ->> 'table' AS table, sum((p.value ->> 'rows')::bigint) AS rows
        FROM jsonb_array_elements(parts) AS p
        GROUP BY 1, 2
        ORDER BY 1, 2
    LOOP
        _places := _places || to_jsonb(concat(_place.schema, '.', _place.table));
        PERFORM @schema@.mark('restore', jsonb_build_object(
            'run', facts ->> 'run', 'schema', _place.schema, 'table', _place.table, 'rows', _place.rows,
            'places', ARRAY[concat(_place.schema, '.', _place.table)], 'keep_until', _until
        ), concat(quote_ident(_place.schema), '.', quote_ident(_place.table)));
    END LOOP;
    PERFORM @schema@.mark('restore', facts || jsonb_build_object('keep_until', _until, 'places', _places), 'hold');
    RETURN _until;
END
$function$;

-- The record of a pruning whose digest is that of an archive's file, as far as it was deleted.
CREATE OR REPLACE FUNCTION @schema@.prune_marks(run text)
RETURNS TABLE (digest text)
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT a.changed_data ->> 'digest'
    FROM @schema@.activity AS a
    WHERE a.object_id IS NULL AND a.table_name = 'activity' AND a.schema_name = @schema_literal@
      AND a.verb = 'prune' AND a.changed_data ->> 'run' = run
$function$;
