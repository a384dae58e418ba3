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

-- Let one transaction at a time change the partitions: others wait for its end, or for as long as lock_timeout
-- says.
CREATE OR REPLACE FUNCTION @schema@.take_turns()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(concat('audit_app partitions ', @schema_literal@), 0));
END
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
    PERFORM @schema@.take_turns();
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
            SELECT u.* INTO _gap FROM @schema@.uncovered(_parent, _period, greatest(_start, clock_timestamp())) AS u;
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

-- The bound that a conversion to partitions has set to the moments of a table's rows, and whether all of them
-- were looked at; NULL where there is none.
CREATE OR REPLACE FUNCTION @schema@.bound_of(parent text, OUT bound timestamptz, OUT is_validated boolean)
RETURNS record
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
DECLARE
    _definition text;
BEGIN
    SELECT pg_get_constraintdef(c.oid), c.convalidated INTO _definition, is_validated
    FROM pg_constraint AS c
    WHERE c.conrelid = to_regclass(concat('@schema@.', quote_ident(parent))) AND c.conname = concat(parent, '_bound');
    bound := substring(_definition FROM '''([^'']*)''');
END
$function$;

-- A conversion to partitions that was interrupted has left a bound on the moments of the rows: take it away
-- days before a write could fail by it.
CREATE OR REPLACE FUNCTION @schema@.lift_bound(horizon interval DEFAULT '3 days')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _parent text;
BEGIN
    FOREACH _parent IN ARRAY ARRAY['transaction', 'activity'] LOOP
        IF (SELECT b.bound < now() + horizon FROM @schema@.bound_of(_parent) AS b) THEN
            EXECUTE concat('ALTER TABLE @schema@.', quote_ident(_parent), ' DROP CONSTRAINT ', quote_ident(concat(_parent, '_bound')));
        END IF;
    END LOOP;
END
$function$;

-- The verbs of what happened to rows of tables, for an IN; all others are marks of the trail's own.
CREATE OR REPLACE FUNCTION @schema@.row_verbs()
RETURNS text
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT '''insert'', ''update'', ''delete'', ''truncate'', ''baseline'''
$function$;

-- The condition that a row, as "t", does not belong into the default partition. The trail's own marks may stay there:
-- they come from partitions that were pruned.
CREATE OR REPLACE FUNCTION @schema@.is_misplaced(parent text)
RETURNS text
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT CASE parent WHEN 'activity' THEN concat('t.verb IN (', @schema@.row_verbs(), ')') ELSE 'true' END
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
    PERFORM @schema@.take_turns();
    SELECT p.relation INTO _default FROM @schema@.partitions() AS p WHERE p.parent = empty_default.parent AND p.is_default;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    EXECUTE concat('SELECT min(t.issued_at) FROM ONLY ', _default, ' AS t WHERE ', @schema@.is_misplaced(parent)) INTO _first;
    IF _first IS NULL THEN
        RETURN;
    END IF;
    SELECT u.* INTO _gap FROM @schema@.uncovered(parent, _period, _first) AS u;
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
CREATE OR REPLACE FUNCTION @schema@.allow(verb text, facts jsonb, relation text DEFAULT NULL, kept jsonb DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _mark record := @schema@.mark(verb, facts, relation, kept);
BEGIN
    PERFORM set_config('audit_app.rewrite', concat(_mark.id, _mark.place), true);
END
$function$;

-- What is wrong with the partitions: nothing is lost by any of it.
CREATE OR REPLACE FUNCTION @schema@.partition_faults(expected jsonb)
RETURNS TABLE (code text, relation text, message text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _parent text;
    _period text;
    _wanted text := expected ->> 'partition_by';
    _default regclass;
    _is_used boolean;
BEGIN
    FOREACH _parent IN ARRAY ARRAY['activity', 'transaction'] LOOP
        _period := @schema@.partitioned_by(_parent);
        relation := concat(@schema_literal@, '.', _parent);
        IF expected ? 'partition_by' AND _period IS DISTINCT FROM _wanted THEN
            code := 'partitioning';
            message := concat(
                'is ', coalesce('partitioned by ' || _period, 'not partitioned'), ', and the application says ',
                coalesce(_wanted, 'nothing of partitions')
            );
            RETURN NEXT;
        END IF;
        CONTINUE WHEN _period IS NULL;
        code := 'next_partition';
        -- A gap that is over takes nothing any more.
        IF (SELECT u.upper > clock_timestamp() FROM @schema@.uncovered(_parent, _period, clock_timestamp()) AS u) THEN
            message := concat('has no partition for the present ', _period);
            RETURN NEXT;
        ELSIF (
            SELECT u.upper > clock_timestamp()
            FROM @schema@.uncovered(_parent, _period, @schema@.period_start(_period, clock_timestamp(), 1)) AS u
        ) THEN
            message := concat('has no partition for the next ', _period);
            RETURN NEXT;
        END IF;
        SELECT p.relation INTO _default FROM @schema@.partitions() AS p WHERE p.parent = _parent AND p.is_default;
        IF NOT FOUND THEN
            message := 'has no default partition: a write fails for which there is no other one';
            code := 'default_partition';
            RETURN NEXT;
        -- Whoever checks may not be allowed to look.
        ELSIF has_table_privilege(_default, 'SELECT') THEN
            EXECUTE concat('SELECT EXISTS (SELECT FROM ONLY ', _default, ' AS t WHERE ', @schema@.is_misplaced(_parent), ')') INTO _is_used;
            IF _is_used THEN
                code := 'default_rows';
                relation := _default::text;
                message := 'holds rows that have no partition of their own';
                RETURN NEXT;
            END IF;
        END IF;
    END LOOP;
    code := 'split';
    FOR relation IN
        SELECT c.oid::regclass::text
        FROM pg_class AS c
        WHERE c.relnamespace = '@schema@'::regnamespace AND c.relkind = 'r' AND @schema@.is_copy(c.oid)
    LOOP
        message := 'is a part of a splitting that was not done to the end; until then, history cannot be rewritten';
        RETURN NEXT;
    END LOOP;
END
$function$;

-- Is this a table that a splitting of the history has made, and not attached yet?
CREATE OR REPLACE FUNCTION @schema@.is_copy(relation oid)
RETURNS boolean
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(starts_with(obj_description(relation, 'pg_class'), 'audit_app split'), false)
$function$;

-- Begin to convert a table: bound the moments of its rows, so that it can become a partition without being
-- read. Returns the bound: the beginning of a period at least "leeway" away, since a write fails behind it.
-- To be validated afterwards, beside the writers.
CREATE OR REPLACE FUNCTION @schema@.bound_table(parent text, period text, bound timestamptz DEFAULT NULL, leeway interval DEFAULT '7 days')
RETURNS timestamptz
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    _relation text := concat('@schema@.', quote_ident(parent));
    _name text := concat(parent, '_bound');
    _present timestamptz;
BEGIN
    bound := coalesce(bound, @schema@.period_start(period, clock_timestamp() + leeway, 1));
    SELECT b.bound INTO _present FROM @schema@.bound_of(parent) AS b;
    IF _present > clock_timestamp() + least(leeway, bound - clock_timestamp()) / 2 THEN
        RETURN _present;
    END IF;
    IF _present IS NOT NULL THEN
        EXECUTE concat('ALTER TABLE ', _relation, ' DROP CONSTRAINT ', quote_ident(_name));
    END IF;
    EXECUTE concat(
        'ALTER TABLE ', _relation, ' ADD CONSTRAINT ', quote_ident(_name), ' CHECK (issued_at < ', quote_literal(bound), ') NOT VALID'
    );
    RETURN bound;
END
$function$;

-- Convert a table: what it holds becomes the first partition of a partitioned table of the same name, and
-- nothing is copied. Its rows must have been bounded by bound_table() and that validated; and "key" be a
-- unique index over (id, issued_at). All writers wait while this runs: for the lock, and for some statements
-- on the catalog.
CREATE OR REPLACE FUNCTION @schema@.partition_table(parent text, period text, key text)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    _new text := concat('@schema@.', quote_ident(parent));
    _relation regclass := _new::regclass;
    _name text;
    _bound timestamptz;
    _owner text;
    _comment text;
    _next bigint;
    _dependent text;
    _indexes text[];
    _grants text[];
    _comments text[];
    _statement text;
    _row record;
BEGIN
    EXECUTE concat('LOCK TABLE ', _relation, ' IN ACCESS EXCLUSIVE MODE');
    SELECT b.bound INTO _bound FROM @schema@.bound_of(parent) AS b WHERE b.is_validated;
    IF NOT FOUND OR @schema@.is_partitioned(parent) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = concat(_relation, ' is not prepared to be partitioned'),
            HINT = 'Use flask audit partition, which prepares it.';
    END IF;
    -- What depends on the table would go on to depend on the first partition, and see nothing newer.
    SELECT string_agg(DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid), ', ') INTO _dependent
    FROM pg_depend AS d
    LEFT JOIN pg_trigger AS g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
    LEFT JOIN pg_constraint AS c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = _relation
      AND (
          d.deptype = 'n' AND NOT d.classid IN ('pg_attrdef'::regclass, 'pg_class'::regclass)
          AND c.conrelid IS DISTINCT FROM _relation
          OR d.classid IN ('pg_policy'::regclass, 'pg_publication_rel'::regclass)
          OR d.classid = 'pg_trigger'::regclass AND g.tgname <> 'append_only'
      );
    IF _dependent IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = concat(_relation, ' cannot be partitioned while something depends on it: ', _dependent),
            HINT = 'Drop that, partition the trail, and make it again. Nothing was changed.';
    END IF;
    SELECT pg_get_userbyid(c.relowner), obj_description(c.oid, 'pg_class') INTO _owner, _comment
    FROM pg_class AS c
    WHERE c.oid = _relation;
    SELECT array_agg(pg_get_indexdef(i.indexrelid) ORDER BY i.indexrelid) INTO _indexes
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    WHERE i.indrelid = _relation AND NOT i.indisprimary AND i.indisvalid AND c.relname <> key;
    SELECT array_agg(g.statement ORDER BY g.statement) INTO _grants
    FROM (
        SELECT concat(
            'GRANT ', a.privilege_type, CASE WHEN o.attname IS NOT NULL THEN concat(' (', quote_ident(o.attname), ')') END,
            ' ON ', _new, ' TO ', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END
        )
        FROM (
            SELECT NULL::name AS attname, c.relacl AS acl, c.relowner FROM pg_class AS c WHERE c.oid = _relation
            UNION ALL
            SELECT a.attname, a.attacl, 0 FROM pg_attribute AS a WHERE a.attrelid = _relation AND a.attnum > 0
        ) AS o
        CROSS JOIN LATERAL aclexplode(o.acl) AS a
        WHERE a.grantee <> o.relowner
    ) AS g (statement);
    SELECT array_agg(concat('COMMENT ON COLUMN ', _new, '.', quote_ident(a.attname), ' IS ', quote_literal(d.description)))
    INTO _comments
    FROM pg_description AS d
    JOIN pg_attribute AS a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
    WHERE d.classoid = 'pg_class'::regclass AND d.objoid = _relation AND d.objsubid > 0;
    -- Nobody takes a number now. Those that were taken and not written yet, by whoever rolls back, are gaps.
    EXECUTE concat(
        'SELECT CASE WHEN s.is_called THEN s.last_value + 1 ELSE s.last_value END FROM ',
        pg_get_serial_sequence(_new, 'id'), ' AS s'
    ) INTO _next;

    _name := concat(parent, '_before_', to_char(
        _bound, CASE period WHEN 'week' THEN 'IYYY"_w"IW' ELSE 'YYYY_MM' END
    ));
    EXECUTE concat('ALTER TABLE ', _new, ' ALTER COLUMN id DROP IDENTITY');
    FOR _row IN
        SELECT c.conname FROM pg_constraint AS c WHERE c.conrelid = _relation AND c.contype = 'p'
    LOOP
        EXECUTE concat('ALTER TABLE ', _new, ' DROP CONSTRAINT ', quote_ident(_row.conname));
    END LOOP;
    EXECUTE concat(
        'ALTER TABLE ', _new, ' ADD CONSTRAINT ', quote_ident(concat(_name, '_pkey')), ' PRIMARY KEY USING INDEX ', quote_ident(key)
    );
    EXECUTE concat('ALTER TABLE ', _new, ' RENAME TO ', quote_ident(_name));
    -- The names go to the indexes of the partitioned table.
    FOR _row IN
        SELECT c.relname AS name, concat(_name, substr(c.relname, length(parent) + 1)) AS new_name
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE i.indrelid = _relation AND NOT i.indisprimary
    LOOP
        EXECUTE concat('ALTER INDEX @schema@.', quote_ident(_row.name), ' RENAME TO ', quote_ident(_row.new_name));
    END LOOP;

    EXECUTE concat(
        'CREATE TABLE ', _new, ' (LIKE ', _relation, ' INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING STORAGE,',
        ' CONSTRAINT ', quote_ident(concat(parent, '_pkey')), ' PRIMARY KEY (id, issued_at)) PARTITION BY RANGE (issued_at)'
    );
    EXECUTE concat('ALTER TABLE ', _new, ' ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (START WITH ', _next, ' MINVALUE 1)');
    FOREACH _statement IN ARRAY coalesce(_indexes, '{}') LOOP
        EXECUTE _statement;
    END LOOP;
    PERFORM @schema@.guard(_new::regclass);
    EXECUTE concat('REVOKE ALL ON ', _new, ' FROM PUBLIC');
    FOREACH _statement IN ARRAY coalesce(_grants, '{}') || coalesce(_comments, '{}') LOOP
        EXECUTE _statement;
    END LOOP;
    -- Whoever reads the trail reads it by its name.
    FOR _row IN
        SELECT DISTINCT a.grantee
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.oid = _relation AND a.grantee <> c.relowner
    LOOP
        EXECUTE concat(
            'REVOKE ALL ON ', _relation, ' FROM ',
            CASE _row.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(_row.grantee)) END
        );
    END LOOP;
    IF _comment IS NOT NULL THEN
        EXECUTE concat('COMMENT ON TABLE ', _new, ' IS ', quote_literal(_comment));
        EXECUTE concat('COMMENT ON TABLE ', _relation, ' IS NULL');
    END IF;
    IF _owner <> current_user THEN
        EXECUTE concat('ALTER TABLE ', _new, ' OWNER TO ', quote_ident(_owner));
    END IF;
    PERFORM @schema@.attach_table(parent, _relation, NULL, _bound);
    EXECUTE concat('ALTER TABLE ', _relation, ' DROP CONSTRAINT ', quote_ident(concat(parent, '_bound')));
    PERFORM @schema@.set_period(parent, period);
    PERFORM @schema@.extend_partitions();
    RETURN _name;
END
$function$;

-- The partition that holds everything before a moment, where there is one: what a conversion began with.
CREATE OR REPLACE FUNCTION @schema@.history_of(parent text, OUT relation regclass, OUT upper timestamptz)
RETURNS record
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT p.relation, p.upper
    FROM @schema@.partitions() AS p
    WHERE p.parent = history_of.parent AND p.lower IS NULL AND p.upper IS NOT NULL
$function$;

-- The copies that a splitting has made of the parts of the history, the oldest first.
CREATE OR REPLACE FUNCTION @schema@.copies(parent text)
RETURNS TABLE (relation regclass, lower timestamptz, upper timestamptz)
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT c.oid::regclass, (d.words)[4]::timestamptz, (d.words)[5]::timestamptz
    FROM pg_class AS c
    CROSS JOIN LATERAL (SELECT string_to_array(obj_description(c.oid, 'pg_class'), ' ')) AS d (words)
    WHERE c.relnamespace = '@schema@'::regnamespace
      AND c.relkind = 'r'
      AND @schema@.is_copy(c.oid)
      AND (d.words)[3] = parent
      AND cardinality(d.words) = 5
    ORDER BY 2
$function$;

-- Copy the next period of the history into a table of its own, which nobody reads yet. To be called again until
-- it returns no partition; an interrupted call leaves nothing behind.
CREATE OR REPLACE FUNCTION @schema@.split_history(parent text, OUT partition text, OUT copied bigint)
RETURNS record
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    _history record;
    _period text := @schema@.partitioned_by(parent);
    _lower timestamptz;
    _upper timestamptz;
    _is_there boolean;
    _copy regclass;
BEGIN
    PERFORM @schema@.take_turns();
    SELECT h.* INTO _history FROM @schema@.history_of(parent) AS h;
    IF _history.relation IS NULL THEN
        RETURN;
    END IF;
    IF _history.upper >= clock_timestamp() THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = concat(_history.relation, ' is added to until ', _history.upper),
            HINT = 'Split it after that. Nothing was changed.';
    END IF;
    SELECT max(c.upper) INTO _lower FROM @schema@.copies(parent) AS c;
    IF _lower IS NULL THEN
        EXECUTE concat('SELECT min(t.issued_at) FROM ONLY ', _history.relation, ' AS t') INTO _lower;
    END IF;
    WHILE _lower < _history.upper LOOP
        _lower := @schema@.period_start(_period, _lower);
        _upper := least(@schema@.period_start(_period, _lower, 1), _history.upper);
        EXECUTE concat(
            'SELECT EXISTS (SELECT FROM ONLY ', _history.relation, ' AS t WHERE t.issued_at >= $1 AND t.issued_at < $2)'
        ) INTO _is_there USING _lower, _upper;
        IF _is_there THEN
            _copy := @schema@.make_table(parent, @schema@.partition_name(parent, _period, _lower));
            EXECUTE concat(
                'ALTER TABLE ', _copy, ' ADD CONSTRAINT bound CHECK (issued_at >= ', quote_literal(_lower),
                ' AND issued_at < ', quote_literal(_upper), ')'
            );
            EXECUTE concat('COMMENT ON TABLE ', _copy, ' IS ', quote_literal(concat_ws(
                ' ', 'audit_app split', parent, replace(_lower::text, ' ', 'T'), replace(_upper::text, ' ', 'T')
            )));
            EXECUTE concat(
                'INSERT INTO ', _copy, ' SELECT t.* FROM ONLY ', _history.relation,
                ' AS t WHERE t.issued_at >= $1 AND t.issued_at < $2'
            ) USING _lower, _upper;
            GET DIAGNOSTICS copied = ROW_COUNT;
            partition := _copy;
            RETURN;
        END IF;
        _lower := _upper;
    END LOOP;
END
$function$;

-- Put the copies in the place of the history, if they hold as many rows; else drop them, to be made again.
-- Returns whether it is done. The history itself stays as a table that nobody reads, for drop_history().
CREATE OR REPLACE FUNCTION @schema@.finish_split(parent text)
RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD'
AS $function$
#variable_conflict use_variable
DECLARE
    _history record;
    _copy record;
    _there bigint;
    _here bigint;
    _rows bigint := 0;
    _partitions int := 0;
BEGIN
    PERFORM @schema@.take_turns();
    SELECT h.* INTO _history FROM @schema@.history_of(parent) AS h;
    IF _history.relation IS NULL THEN
        RETURN true;
    END IF;
    -- Whoever reads goes on. Nobody writes, but whoever imports old history.
    EXECUTE concat('LOCK TABLE ', _history.relation, ' IN SHARE ROW EXCLUSIVE MODE');
    EXECUTE concat('SELECT count(*) FROM ONLY ', _history.relation) INTO _there;
    FOR _copy IN SELECT * FROM @schema@.copies(parent) LOOP
        EXECUTE concat('SELECT count(*) FROM ONLY ', _copy.relation) INTO _here;
        _rows := _rows + _here;
        _partitions := _partitions + 1;
    END LOOP;
    IF _there <> _rows THEN
        FOR _copy IN SELECT * FROM @schema@.copies(parent) LOOP
            EXECUTE concat('DROP TABLE ', _copy.relation);
        END LOOP;
        RETURN false;
    END IF;
    PERFORM @schema@.mark('partition', jsonb_build_object(
        'operation', 'split', 'table', parent, 'partition', _history.relation::text, 'partitions', _partitions, 'rows', _rows
    ));
    EXECUTE concat('ALTER TABLE @schema@.', quote_ident(parent), ' DETACH PARTITION ', _history.relation);
    EXECUTE concat('COMMENT ON TABLE ', _history.relation, ' IS ', quote_literal(concat('audit_app split ', parent)));
    FOR _copy IN SELECT * FROM @schema@.copies(parent) LOOP
        PERFORM @schema@.attach_table(parent, _copy.relation, _copy.lower, _copy.upper);
        EXECUTE concat('ALTER TABLE ', _copy.relation, ' DROP CONSTRAINT bound');
        EXECUTE concat('COMMENT ON TABLE ', _copy.relation, ' IS NULL');
    END LOOP;
    RETURN true;
END
$function$;

-- Drop the table that held the history before it was split.
CREATE OR REPLACE FUNCTION @schema@.drop_history(parent text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _relation regclass;
BEGIN
    FOR _relation IN
        SELECT c.oid
        FROM pg_class AS c
        WHERE c.relnamespace = '@schema@'::regnamespace
          AND c.relkind = 'r'
          AND NOT c.relispartition
          AND obj_description(c.oid, 'pg_class') = concat('audit_app split ', parent)
    LOOP
        EXECUTE concat('DROP TABLE ', _relation);
    END LOOP;
END
$function$;

-- A partition whose guard is missing gets it again.
DO $do$
DECLARE
    _relation regclass;
BEGIN
    FOR _relation IN SELECT p.relation FROM @schema@.partitions() AS p LOOP
        PERFORM @schema@.guard(_relation);
    END LOOP;
END
$do$;
