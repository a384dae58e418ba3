-- Partitions of the trail: by month or by week in UTC, with a default partition that takes what no other one
-- does, so that a missing partition never fails a write. Nothing here does anything to a trail without partitions.

-- The partitions of both tables with their bounds, the oldest first. A bound that is infinite is NULL.
CREATE OR REPLACE FUNCTION @schema@.partitions()
RETURNS TABLE (parent text, relation regclass, lower timestamptz, upper timestamptz, is_default boolean)
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
    SELECT
        p.relname::text,
        c.oid::regclass,
        substring(b.bound FROM 'FROM [(]''([^'']*)''[)]')::timestamptz,
        substring(b.bound FROM 'TO [(]''([^'']*)''[)]')::timestamptz,
        b.bound = 'DEFAULT'
    FROM pg_class AS p
    JOIN pg_inherits AS i ON i.inhparent = p.oid
    JOIN pg_class AS c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid)) AS b (bound)
    WHERE p.relnamespace = '@schema@'::regnamespace
      AND p.relname IN ('activity', 'transaction')
      AND p.relkind = 'p'
      AND NOT i.inhdetachpending
    ORDER BY 1, 5, 3 NULLS FIRST
$function$;

-- Is this table of the trail (activity or transaction) partitioned?
CREATE OR REPLACE FUNCTION @schema@.is_partitioned(parent text)
RETURNS boolean
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT EXISTS (
        SELECT
        FROM pg_class AS c
        WHERE c.relnamespace = '@schema@'::regnamespace AND c.relname = parent AND c.relkind = 'p'
    )
$function$;

-- month or week, as the comment on a partitioned table says; NULL where it is not partitioned.
CREATE OR REPLACE FUNCTION @schema@.partitioned_by(parent text DEFAULT 'activity')
RETURNS text
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(substring(obj_description(c.oid, 'pg_class') FROM 'partition_by=(month|week)'), 'month')
    FROM pg_class AS c
    WHERE c.relnamespace = '@schema@'::regnamespace AND c.relname = parent AND c.relkind = 'p'
$function$;

-- The beginning of the period that a moment is in, or of one so many periods later. Periods begin in UTC,
-- weeks on Mondays.
CREATE OR REPLACE FUNCTION @schema@.period_start(period text, moment timestamptz, later int DEFAULT 0)
RETURNS timestamptz
LANGUAGE sql
IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT (date_trunc(period, moment AT TIME ZONE 'UTC') + later * concat('1 ', period)::interval) AT TIME ZONE 'UTC'
$function$;

-- The name of the partition for a period: activity_p2026_11, activity_p2026_w48. Where that is taken, since a
-- part of the period has a partition of its own, with a number behind it.
CREATE OR REPLACE FUNCTION @schema@.partition_name(parent text, period text, period_start timestamptz)
RETURNS text
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _base text := concat(parent, '_p', to_char(
        period_start AT TIME ZONE 'UTC', CASE period WHEN 'week' THEN 'IYYY"_w"IW' ELSE 'YYYY_MM' END
    ));
    _name text := _base;
    _number int := 1;
BEGIN
    WHILE to_regclass(concat('@schema@.', quote_ident(_name))) IS NOT NULL LOOP
        _number := _number + 1;
        _name := concat(_base, '_', _number);
    END LOOP;
    RETURN _name;
END
$function$;

-- Does this table refuse what is not an insert, in every session?
CREATE OR REPLACE FUNCTION @schema@.is_guarded(relation oid)
RETURNS boolean
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT EXISTS (
        SELECT
        FROM pg_trigger AS g
        WHERE g.tgrelid = relation
          AND g.tgname = 'append_only'
          AND g.tgenabled = 'A'
          AND g.tgfoid = '@schema@.refuse()'::regprocedure
          -- BEFORE UPDATE OR DELETE OR TRUNCATE, of any column, once for a statement.
          AND g.tgtype = 58
          AND g.tgattr::text = ''
          AND g.tgqual IS NULL
    )
$function$;

-- Let a table refuse what is not an insert. A statement on a partition itself fires that partition's triggers only.
CREATE OR REPLACE FUNCTION @schema@.guard(relation regclass)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF NOT @schema@.is_guarded(relation) THEN
        EXECUTE concat(
            'CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ', relation,
            ' FOR EACH STATEMENT EXECUTE FUNCTION @schema@.refuse()'
        );
        EXECUTE concat('ALTER TABLE ', relation, ' ENABLE ALWAYS TRIGGER append_only');
    END IF;
END
$function$;

-- Make a table that can become a partition: of the same columns, indexes and owner, granted to nobody, and
-- guarded. The parent numbers the rows: a table with an identity of its own cannot be attached.
CREATE OR REPLACE FUNCTION @schema@.make_table(parent text, name text)
RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _name text := concat('@schema@.', quote_ident(name));
    _owner text;
BEGIN
    SELECT pg_get_userbyid(c.relowner) INTO _owner
    FROM pg_class AS c
    WHERE c.relnamespace = '@schema@'::regnamespace AND c.relname = parent;
    EXECUTE concat(
        'CREATE TABLE ', _name, ' (LIKE @schema@.', quote_ident(parent),
        ' INCLUDING ALL EXCLUDING IDENTITY EXCLUDING COMMENTS EXCLUDING STATISTICS)'
    );
    EXECUTE concat('REVOKE ALL ON ', _name, ' FROM PUBLIC');
    PERFORM @schema@.guard(_name::regclass);
    IF _owner <> current_user THEN
        EXECUTE concat('ALTER TABLE ', _name, ' OWNER TO ', quote_ident(_owner));
    END IF;
    RETURN _name::regclass;
END
$function$;

-- Attach a table for the rows from "lower" up to, and without, "upper"; as the default where both are NULL.
--
-- That locks the parent against other changes of its shape only, and writers go on; but the default partition
-- against everything, since it is searched for rows that would belong to the new one.
CREATE OR REPLACE FUNCTION @schema@.attach_table(parent text, relation regclass, lower timestamptz, upper timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
BEGIN
    EXECUTE concat(
        'ALTER TABLE @schema@.', quote_ident(parent), ' ATTACH PARTITION ', relation,
        CASE
            WHEN lower IS NULL AND upper IS NULL THEN ' DEFAULT'
            ELSE concat(
                ' FOR VALUES FROM (', coalesce(quote_literal(lower), 'MINVALUE'), ') TO (',
                coalesce(quote_literal(upper), 'MAXVALUE'), ')'
            )
        END
    );
END
$function$;

-- What of the period that begins at "period_start" no partition covers: NULL where one does. Of several gaps,
-- the one with "moment" in it, or the first.
CREATE OR REPLACE FUNCTION @schema@.uncovered(
    parent text, period text, moment timestamptz, OUT lower timestamptz, OUT upper timestamptz
)
RETURNS record
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH whole AS (
        SELECT @schema@.period_start(period, moment) AS lower, @schema@.period_start(period, moment, 1) AS upper
    ),
    taken AS (
        SELECT tstzrange(p.lower, p.upper) AS range
        FROM @schema@.partitions() AS p
        WHERE p.parent = uncovered.parent AND NOT p.is_default
    ),
    gap AS (
        SELECT unnest(
            tstzmultirange(tstzrange(w.lower, w.upper))
            - coalesce((SELECT range_agg(t.range) FROM taken AS t), '{}')
        ) AS range
        FROM whole AS w
    )
    SELECT lower(g.range), upper(g.range)
    FROM gap AS g
    ORDER BY NOT g.range @> moment, g.range
    LIMIT 1
$function$;

-- Make what is missing of the default, present and next partitions of both tables; returns what was made.
--
-- Where rows of the present period are in the default partition already, the new one begins a moment later than
-- now, so that it can be attached at once: nothing that is there belongs to it. empty_default() sees to the rest.
--
--   ahead    how many periods after the present one
--   margin   how much later; longer than a writer may have to wait for the lock
CREATE OR REPLACE FUNCTION @schema@.extend_partitions(ahead int DEFAULT 3, margin interval DEFAULT '10 seconds')
RETURNS TABLE (partition text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _parent text;
    _default regclass;
    _period text;
    _start timestamptz;
    _gap record;
    _is_in_default boolean;
BEGIN
    FOREACH _parent IN ARRAY ARRAY['transaction', 'activity'] LOOP
        _period := @schema@.partitioned_by(_parent);
        CONTINUE WHEN _period IS NULL;
        SELECT p.relation INTO _default FROM @schema@.partitions() AS p WHERE p.parent = _parent AND p.is_default;
        IF NOT FOUND THEN
            _default := @schema@.make_table(_parent, concat(_parent, '_default'));
            PERFORM @schema@.attach_table(_parent, _default, NULL, NULL);
            partition := _default;
            RETURN NEXT;
        END IF;
        FOR _step IN 0..ahead LOOP
            _start := @schema@.period_start(_period, clock_timestamp(), _step);
            _gap := @schema@.uncovered(_parent, _period, greatest(_start, clock_timestamp()));
            CONTINUE WHEN _gap.lower IS NULL OR _gap.upper <= clock_timestamp();
            IF _gap.lower <= clock_timestamp() THEN
                EXECUTE concat('SELECT EXISTS (SELECT FROM ONLY ', _default, ' AS t WHERE t.issued_at >= $1 AND t.issued_at < $2)')
                INTO _is_in_default USING _gap.lower, _gap.upper;
                IF _is_in_default THEN
                    _gap.lower := date_trunc('milliseconds', clock_timestamp() + margin);
                    CONTINUE WHEN _gap.lower >= _gap.upper;
                END IF;
            END IF;
            partition := @schema@.make_table(_parent, @schema@.partition_name(_parent, _period, _start));
            PERFORM @schema@.attach_table(_parent, partition::regclass, _gap.lower, _gap.upper);
            RETURN NEXT;
        END LOOP;
    END LOOP;
END
$function$;

-- Make the partitions of a trail that was just made partitioned; a trail without partitions is left alone.
CREATE OR REPLACE FUNCTION @schema@.start_partitions(period text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _parent text;
BEGIN
    FOREACH _parent IN ARRAY ARRAY['transaction', 'activity'] LOOP
        IF @schema@.is_partitioned(_parent) AND NOT EXISTS (SELECT FROM @schema@.partitions() AS p WHERE p.parent = _parent) THEN
            PERFORM @schema@.set_period(_parent, period);
        END IF;
    END LOOP;
    PERFORM @schema@.extend_partitions();
END
$function$;

-- Note by what a table is partitioned from now on: behind what its comment says besides.
CREATE OR REPLACE FUNCTION @schema@.set_period(parent text, period text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _relation text := concat('@schema@.', quote_ident(parent));
BEGIN
    IF NOT coalesce(period IN ('month', 'week'), false) THEN
        RAISE invalid_parameter_value USING
            MESSAGE = concat('the trail cannot be partitioned by ', coalesce(period, 'nothing')),
            HINT = 'Use month or week.';
    END IF;
    EXECUTE concat('COMMENT ON TABLE ', _relation, ' IS ', quote_literal(concat_ws(
        ' ',
        nullif(regexp_replace(coalesce(obj_description(_relation::regclass, 'pg_class'), ''), ' ?audit_app partition_by=[a-z]+', ''), ''),
        concat('audit_app partition_by=', period)
    )));
END
$function$;

-- What an application does when it notices that the next partition is missing: the present one and the next,
-- and nothing else. May be granted to those who write, and never keeps anybody waiting for long.
CREATE OR REPLACE FUNCTION @schema@.keep_partitions()
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $function$
BEGIN
    -- Another process is at it.
    IF NOT pg_try_advisory_xact_lock(hashtextextended(concat('audit_app partitions ', @schema_literal@), 0)) THEN
        RETURN 0;
    END IF;
    PERFORM @schema@.lift_bound();
    RETURN count(*) FROM @schema@.extend_partitions(1);
END
$function$;

-- A conversion to partitions that was interrupted has left a bound on the moments of the rows: take it away
-- days before a write could fail by it.
CREATE OR REPLACE FUNCTION @schema@.lift_bound(horizon interval DEFAULT '3 days')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
DECLARE
    _bound record;
BEGIN
    FOR _bound IN
        SELECT c.conrelid::regclass AS relation, c.conname AS name
        FROM pg_constraint AS c
        JOIN pg_class AS t ON t.oid = c.conrelid
        WHERE t.relnamespace = '@schema@'::regnamespace
          AND t.relname IN ('activity', 'transaction')
          AND c.conname = concat(t.relname, '_bound')
          AND substring(pg_get_constraintdef(c.oid) FROM '''([^'']*)''')::timestamptz < now() + horizon
    LOOP
        EXECUTE concat('ALTER TABLE ', _bound.relation, ' DROP CONSTRAINT ', quote_ident(_bound.name));
    END LOOP;
END
$function$;

-- Move rows of one period that is over from the default partition into a partition of their own. Nobody adds
-- rows of such a period, so that nobody waits, but whoever imports history. Leaves a mark, without which the
-- guards refuse the removal. To be called again until it returns no partition.
CREATE OR REPLACE FUNCTION @schema@.empty_default(parent text, OUT partition text, OUT moved bigint)
RETURNS record
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    _default regclass;
    _period text := @schema@.partitioned_by(parent);
    _first timestamptz;
    _gap record;
    _target regclass;
    _removed bigint;
BEGIN
    SELECT p.relation INTO _default FROM @schema@.partitions() AS p WHERE p.parent = empty_default.parent AND p.is_default;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    EXECUTE concat('SELECT min(t.issued_at) FROM ONLY ', _default, ' AS t') INTO _first;
    IF _first IS NULL THEN
        RETURN;
    END IF;
    _gap := @schema@.uncovered(parent, _period, _first);
    IF _gap.upper >= clock_timestamp() THEN
        RETURN;
    END IF;
    -- Whoever was writing here has committed after this, and is seen by the next statement.
    EXECUTE concat('LOCK TABLE ', _default, ' IN EXCLUSIVE MODE');
    _target := @schema@.make_table(parent, @schema@.partition_name(parent, _period, @schema@.period_start(_period, _first)));
    -- Said here, it need not be looked up under the lock that attaching takes.
    EXECUTE concat(
        'ALTER TABLE ', _target, ' ADD CONSTRAINT bound CHECK (issued_at >= ', quote_literal(_gap.lower),
        ' AND issued_at < ', quote_literal(_gap.upper), ')'
    );
    EXECUTE concat('INSERT INTO ', _target, ' SELECT t.* FROM ONLY ', _default, ' AS t WHERE t.issued_at >= $1 AND t.issued_at < $2')
    USING _gap.lower, _gap.upper;
    GET DIAGNOSTICS moved = ROW_COUNT;
    PERFORM @schema@.allow('partition', jsonb_build_object(
        'operation', 'empty_default', 'table', parent, 'partition', _target::text, 'rows', moved
    ));
    EXECUTE concat('DELETE FROM ONLY ', _default, ' AS t WHERE t.issued_at >= $1 AND t.issued_at < $2')
    USING _gap.lower, _gap.upper;
    GET DIAGNOSTICS _removed = ROW_COUNT;
    PERFORM set_config('audit_app.rewrite', '', true);
    IF _removed <> moved THEN
        RAISE serialization_failure USING
            MESSAGE = concat(_removed, ' rows of ', _default, ' were removed and ', moved, ' copied'),
            HINT = 'Nothing was changed. Run it again, in READ COMMITTED.';
    END IF;
    PERFORM @schema@.attach_table(parent, _target, _gap.lower, _gap.upper);
    EXECUTE concat('ALTER TABLE ', _target, ' DROP CONSTRAINT bound');
    partition := _target;
END
$function$;

-- Leave the mark that lets this transaction do what the guards refuse, until the setting is emptied.
CREATE OR REPLACE FUNCTION @schema@.allow(verb text, facts jsonb)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _mark record := @schema@.mark(verb, facts);
BEGIN
    PERFORM set_config('audit_app.rewrite', concat(_mark.id, _mark.place), true);
END
$function$;
