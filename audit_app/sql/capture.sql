-- The generator: from the live catalog to the statements that write the trail of one table.
--
-- It is used twice. audit_table() builds a table's capture function with it, so that the columns are
-- known to a cached plan; and that function itself falls back to it, executing the result at once,
-- when the table was altered behind its back.

-- The shape of a table, as far as the generated statements depend on it: the types and names of its columns, as
-- they are at this moment.
CREATE OR REPLACE FUNCTION @schema@.present_shape(relation oid)
RETURNS text[]
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
BEGIN
    -- Type numbers above 16383 are given out by each cluster anew, so those types go by name. In the order of the
    -- index, which takes no sort.
    RETURN ARRAY(
        SELECT concat(
            CASE WHEN a.atttypid < 16384 THEN a.atttypid::text ELSE format_type(a.atttypid, NULL) END, ' ', a.attname
        )
        FROM pg_attribute AS a
        WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
    );
END
$function$;

-- The same, asked once for each plan: PostgreSQL makes a plan anew when a table that it names was altered. Declared
-- immutable for that, which it is not; it asks a volatile function, which looks at the catalog anew. Never to be
-- asked in a transaction that keeps the view of its beginning, and has nothing newer to look at.
CREATE OR REPLACE FUNCTION @schema@.planned_shape(relation regclass)
RETURNS text[]
LANGUAGE plpgsql
IMMUTABLE
AS $function$
BEGIN
    RETURN @schema@.present_shape(relation);
END
$function$;

-- Refuse to record with the columns that this transaction sees if the table has others by now. A transaction that
-- keeps the view of its beginning writes to the table as it is, and reads the catalog as it was; only functions that
-- do not look through that view tell the difference. Called in such transactions only.
CREATE OR REPLACE FUNCTION @schema@.require_present_shape(relation oid)
RETURNS void
LANGUAGE plpgsql
STABLE
AS $function$
#variable_conflict use_variable
DECLARE
    _next int2 := (SELECT max(a.attnum) + 1 FROM pg_attribute AS a WHERE a.attrelid = relation);
BEGIN
    -- By its name, to raise an error for a column that is not there any more; by its number, NULL for one
    -- that never was.
    PERFORM has_column_privilege(relation, a.attname::text, 'SELECT')
    FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
    IF has_column_privilege(relation, _next, 'SELECT') IS NOT NULL THEN
        RAISE undefined_column;
    END IF;
EXCEPTION WHEN undefined_column THEN
    RAISE serialization_failure USING
        MESSAGE = concat('the table ', relation::regclass, ' was altered after this transaction began'),
        HINT = 'Nothing was changed. Roll back and repeat the transaction.';
END
$function$;

-- A type and all that it consists of: a domain's base, an array's elements, a range's bounds, a composite's
-- fields.
CREATE OR REPLACE FUNCTION @schema@.parts_of(type oid)
RETURNS SETOF oid
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
            SELECT r.rngsubtype FROM pg_catalog.pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
            UNION ALL
            SELECT a.atttypid
            FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
        ) AS inner_type (oid)
    )
    SELECT part.oid FROM part
$function$;

-- Is there a json anywhere inside of this type?
CREATE OR REPLACE FUNCTION @schema@.holds_json(type oid)
RETURNS boolean
LANGUAGE sql
STABLE
AS $function$
    SELECT 'pg_catalog.json'::regtype IN (SELECT part.oid FROM @schema@.parts_of(type) AS part (oid))
$function$;

-- A derived table of one row with the document of these values: of a record, which has its names ready, where
-- JSON_OBJECT() looks up the type of each anew in each row. It shows no column of theirs, which could take the
-- place of a variable.
CREATE OR REPLACE FUNCTION @schema@.document_expression(names text[], expressions text[])
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT concat(
        '(SELECT to_jsonb(d.*) AS document FROM (SELECT ',
        string_agg(concat(f.expression, ' AS ', quote_ident(f.name)), ', ' ORDER BY f.ordinal),
        ') AS d)'
    )
    FROM unnest(names, expressions) WITH ORDINALITY AS f (name, expression, ordinal)
$function$;

-- Is the "=" of this plain type true of identical values only? Known of the types named here.
CREATE OR REPLACE FUNCTION @schema@.is_equal_if_identical(type oid)
RETURNS boolean
LANGUAGE sql
IMMUTABLE
AS $function$
    SELECT type = ANY ('{
        bool, bytea, date, int2, int4, int8, oid, text, time, timestamp, timestamptz, uuid, varchar
    }'::regtype[]::oid[])
$function$;

-- Do two values of one plain type differ, to the last bit? A type's own "=" takes 10 for 10.0, and json has
-- none; but where it will do, it costs a third of comparing the images.
CREATE OR REPLACE FUNCTION @schema@.difference_expression(old text, new text, type oid)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN NOT @schema@.is_equal_if_identical(type) THEN concat('record_image_ne(ROW(', old, '), ROW(', new, '))')
        -- Whatever collation the column has or comes to have: one may take "A" for "a".
        WHEN type IN ('text'::regtype, 'varchar'::regtype) THEN concat(
            old, ' COLLATE "C" IS DISTINCT FROM ', new, ' COLLATE "C"'
        )
        ELSE concat(old, ' IS DISTINCT FROM ', new)
    END
$function$;

-- A JSON object with only the columns that differ between the rows o and n.
CREATE OR REPLACE FUNCTION @schema@.changed_values_expression(names text[], differences text[], expressions text[])
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        -- ABSENT ON NULL leaves out JSON nulls as well: what became NULL is for nulls_expression() to add.
        WHEN current_setting('server_version_num')::int >= 160000 THEN concat(
            'JSON_OBJECT(',
            string_agg(
                concat(quote_literal(f.name), ': CASE WHEN ', f.difference, ' THEN ', f.expression, ' END'),
                ', ' ORDER BY f.ordinal
            ),
            ' ABSENT ON NULL RETURNING jsonb)'
        )
        ELSE concat(
            '(SELECT jsonb_object_agg(f.name, f.value) FROM (VALUES ',
            string_agg(
                concat('(', f.difference, ', ', quote_literal(f.name), ', to_jsonb(', f.expression, '))'),
                ', ' ORDER BY f.ordinal
            ),
            ') AS f (differs, name, value) WHERE f.differs)'
        )
    END
    FROM unnest(names, differences, expressions) WITH ORDINALITY AS f (name, difference, expression, ordinal)
$function$;

-- What to add to the changes of a row in which columns became NULL. Nothing of a column whose condition is
-- NULL. PostgreSQL 16 and later.
--
--   may_be_nulled   a condition that is cheap to ask, and true wherever one of the others is
CREATE OR REPLACE FUNCTION @schema@.nulls_expression(names text[], may_be_nulled text, conditions text[])
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT concat(
        ' || CASE WHEN ', may_be_nulled, ' THEN @schema@.nulls(',
        quote_literal(array_agg(f.name ORDER BY f.ordinal)), ', ARRAY[',
        string_agg(f.condition, ', ' ORDER BY f.ordinal), ']) ELSE ''{}'' END'
    )
    FROM unnest(names, conditions) WITH ORDINALITY AS f (name, condition, ordinal)
    WHERE f.condition IS NOT NULL
    HAVING count(*) > 0
$function$;

-- What to add to the document of a row in which values are too large. It is added, and not a second form of the
-- whole document, because PostgreSQL makes both ready at each execution; so what is added is said in few words.
--
--   entries   for each column {name: mark} if its value is too large, else {}; NULL where that cannot be
CREATE OR REPLACE FUNCTION @schema@.large_values_expression(has_large text, entries text[])
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT concat(' || CASE WHEN ', has_large, ' THEN ', string_agg(f.entry, ' || '), ' ELSE ''{}'' END')
    FROM unnest(entries) AS f (entry)
    WHERE f.entry IS NOT NULL
    HAVING count(*) > 0
$function$;

-- May values of this type be given to to_jsonb() or cast to text? Both call a cast that the type's
-- owner can make, and they would call it with the rights of the trail's owner: so that owner must be one
-- who has these rights anyway; and so must the owners of its parts.
CREATE OR REPLACE FUNCTION @schema@.is_trusted_custom(type oid)
RETURNS boolean
LANGUAGE sql
STABLE
AS $function$
    SELECT NOT EXISTS (
        SELECT
        FROM @schema@.parts_of(type) AS part (oid)
        JOIN pg_catalog.pg_type AS t ON t.oid = part.oid
        WHERE t.oid >= 16384
          AND NOT pg_has_role(
              t.typowner,
              (SELECT n.nspowner FROM pg_catalog.pg_namespace AS n WHERE n.nspname = @schema_literal@),
              'MEMBER'
          )
    )
$function$;

-- The same of any type. This one is inlined, and PostgreSQL's own types need no query.
CREATE OR REPLACE FUNCTION @schema@.is_trusted(type oid)
RETURNS boolean
LANGUAGE sql
STABLE
AS $function$
    SELECT type < 16384 OR @schema@.is_trusted_custom(type)
$function$;

-- A text type without a bound of its own.
CREATE OR REPLACE FUNCTION @schema@.is_long_text(type oid, typmod int)
RETURNS boolean
LANGUAGE sql
STABLE
AS $function$
    SELECT t.typcategory = 'S' AND t.typlen = -1 AND typmod = -1 AND @schema@.is_trusted(type)
    FROM pg_catalog.pg_type AS t
    WHERE t.oid = type
$function$;

-- What a domain over one of PostgreSQL's own types is a domain of; else the type itself.
CREATE OR REPLACE FUNCTION @schema@.plain_type_custom(type oid)
RETURNS oid
LANGUAGE sql
STABLE
AS $function$
    WITH RECURSIVE base (oid, base) AS (
        SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type AS t WHERE t.oid = type
        UNION ALL
        SELECT t.oid, t.typbasetype FROM base JOIN pg_catalog.pg_type AS t ON t.oid = base.base
    )
    SELECT coalesce((SELECT base.oid FROM base WHERE base.base = 0 AND base.oid < 16384), type)
$function$;

-- The same of any type. This one is inlined; below 12000 there are no domains (information_schema has some).
CREATE OR REPLACE FUNCTION @schema@.plain_type(type oid)
RETURNS oid
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE WHEN type < 12000 THEN type ELSE @schema@.plain_type_custom(type) END
$function$;

-- A column as a value of its plain type. The domain's owner has no say in that: no cast is called and no
-- check.
CREATE OR REPLACE FUNCTION @schema@.plain_reference(reference text, type oid)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN t.oid = type THEN reference
        ELSE concat(reference, '::pg_catalog.', quote_ident(t.typname))
    END
    FROM pg_catalog.pg_type AS t
    WHERE t.oid = @schema@.plain_type(type)
$function$;

-- The stored form of one column of a plain type, for a row whose values all have a size that JSON can hold.
CREATE OR REPLACE FUNCTION @schema@.value_expression(reference text, type oid)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        -- concat() knows no casts, only the types' own output. An array's text is that of an array of
        -- texts, too.
        WHEN NOT @schema@.is_trusted(type) THEN concat(
            'CASE WHEN ', reference, ' IS DISTINCT FROM NULL THEN to_jsonb(concat(', reference, ')',
            CASE WHEN (SELECT t.typcategory = 'A' FROM pg_catalog.pg_type AS t WHERE t.oid = type) THEN '::text[]' END,
            ') END'
        )
        WHEN type = 'json'::regtype AND current_setting('server_version_num')::int >= 160000 THEN concat(
            'CASE WHEN pg_input_is_valid(', reference, '::text, ''jsonb'')',
            ' THEN to_jsonb(', reference, ') ELSE to_jsonb(', reference, '::text) END'
        )
        WHEN @schema@.holds_json(type) THEN concat('@schema@.jsonb_or_text(', reference, ')')
        ELSE reference
    END
$function$;

-- The size of a column that has no bound, in bytes of JSON; NULL for every other column.
CREATE OR REPLACE FUNCTION @schema@.size_expression(reference text, type oid, typmod int)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN @schema@.is_long_text(type, typmod) THEN concat('octet_length(', reference, '::text)')
        -- Written in hexadecimal.
        WHEN type = 'bytea'::regtype THEN concat('2 * octet_length(', reference, ')::bigint')
    END
$function$;

-- {name: mark} of a value without a bound that is too large, else {}.
CREATE OR REPLACE FUNCTION @schema@.large_entry_expression(name text, reference text, type oid, byte_limit bigint)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT concat(
        CASE
            WHEN type = 'bytea'::regtype THEN concat('@schema@.large_bytes_entry(', quote_literal(name), ', ', reference)
            ELSE concat('@schema@.large_text_entry(', quote_literal(name), ', ', reference, '::text')
        END,
        ', ', byte_limit, ')'
    )
$function$;

-- Is a value of this type a JSON document, which may be the JSON null?
CREATE OR REPLACE FUNCTION @schema@.is_json_document(type oid)
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

-- A value as text, without a cast where somebody else may have made it.
CREATE OR REPLACE FUNCTION @schema@.text_expression(reference text, type oid)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN @schema@.plain_type(type) < 16384 THEN concat(@schema@.plain_reference(reference, type), '::text')
        ELSE concat('concat(', reference, ')')
    END
$function$;

-- The identity of a row, over the derived table's alias.
CREATE OR REPLACE FUNCTION @schema@.key_expression(target oid, alias text)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN count(*) = 0 THEN 'NULL::text'
        WHEN count(*) > 1 THEN concat(
            '@schema@.object_id(jsonb_build_array(',
            string_agg(@schema@.text_expression(concat(alias, '.c', a.attnum), a.atttypid), ', ' ORDER BY k.ordinal),
            ')::text)'
        )
        -- Of what has no fixed length, a value may be longer than an index entry can be.
        WHEN bool_or(t.typlen = -1) THEN concat(
            '@schema@.object_id(', max(@schema@.text_expression(concat(alias, '.c', a.attnum), a.atttypid)), ')'
        )
        ELSE max(@schema@.text_expression(concat(alias, '.c', a.attnum), a.atttypid))
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
CREATE OR REPLACE FUNCTION @schema@.captured_columns(target oid, options jsonb, installed jsonb)
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

-- A column as a condition sees it: as text where an operator or a function might find a cast that the
-- owner of the type made.
CREATE OR REPLACE FUNCTION @schema@.condition_operand(reference text, type oid)
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    SELECT CASE
        WHEN @schema@.is_trusted(@schema@.plain_type(type)) THEN @schema@.plain_reference(reference, type)
        ELSE concat('CASE WHEN ', reference, ' IS DISTINCT FROM NULL THEN concat(', reference, ') END')
    END
$function$;

-- The condition of the option "when", as a filter over the rows o and n; empty without one.
CREATE OR REPLACE FUNCTION @schema@.condition_expression(target oid, operation text, options jsonb)
RETURNS text
LANGUAGE plpgsql
STABLE
AS $function$
#variable_conflict use_variable
DECLARE
    _condition constant text := options ->> 'when';
    _old text;
    _new text;
BEGIN
    IF NOT options ? 'when' THEN
        RETURN '';
    END IF;
    SELECT
        string_agg(concat(f.old, ' AS ', f.name), ', ' ORDER BY f.attnum),
        string_agg(concat(f.new, ' AS ', f.name), ', ' ORDER BY f.attnum)
    INTO _old, _new
    FROM (
        SELECT
            a.attnum,
            quote_ident(a.attname) AS name,
            @schema@.condition_operand(concat('o.c', a.attnum), a.atttypid) AS old,
            @schema@.condition_operand(concat('n.c', a.attnum), a.atttypid) AS new
        FROM pg_attribute AS a
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
    ) AS f;
    -- The row that is not there is one without a match, and not NULLs that are cast to the columns' types:
    -- that would ask for rights on the types' schemas, and call what their owners made.
    RETURN concat(
        E'\nAND (SELECT (', _condition, ') FROM ',
        CASE operation
            WHEN 'INSERT' THEN concat(
                '(SELECT ', _new, ') AS new LEFT JOIN (SELECT ', _new, ' WHERE false) AS old ON true'
            )
            WHEN 'DELETE' THEN concat(
                '(SELECT ', _old, ') AS old LEFT JOIN (SELECT ', _old, ' WHERE false) AS new ON true'
            )
            ELSE concat('(SELECT ', _old, ') AS old, (SELECT ', _new, ') AS new')
        END,
        ')'
    );
END
$function$;

-- The INSERT that records what a statement did.
--
--   operation   'INSERT', 'UPDATE', 'DELETE', 'UPDATE OF ONE' for an update of at most one row, 'UPDATE BY KEY'
--               for updates whose old and new rows do not come in pairs, or 'BASELINE' for rows that were there before:
--               this one ends in a WHERE that may be added to
--   installed   as for captured_columns
--   relid, schema_name, table_name   expressions for what to record
--   old_rows, new_rows   what stands in FROM for the rows
CREATE OR REPLACE FUNCTION @schema@.capture_statement(
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
    _old text;           -- the stored documents, and the records that they are made of
    _old_document text;
    _new text;
    _new_document text;
    _changed text;
    _differs text;
    _condition text := @schema@.condition_expression(
        target, CASE operation WHEN 'BASELINE' THEN 'INSERT' ELSE operation END, options
    );
    _old_key text := @schema@.key_expression(target, 'o');
    _new_key text := @schema@.key_expression(target, 'n');
    _row_key text := @schema@.key_expression(target, 'r');
    _head text;
    _ordinal text := ', row_number() OVER () AS ordinal';
BEGIN
    WITH
    -- The old and the new row, under the aliases of the generated statements.
    valued AS MATERIALIZED (
        SELECT
            side.alias,
            l.name,
            l.attnum,
            p.type,
            p.old,
            p.new,
            l.is_masked,
            s.reference,
            CASE
                WHEN l.is_masked THEN '''{"$audit": "masked"}''::jsonb'
                ELSE @schema@.value_expression(s.reference, p.type)
            END AS value,
            CASE WHEN NOT l.is_masked THEN @schema@.size_expression(s.reference, p.type, l.typmod) END AS size
        FROM @schema@.captured_columns(target, options, installed) AS l
        CROSS JOIN (VALUES ('o'), ('n')) AS side (alias)
        CROSS JOIN LATERAL (
            SELECT
                @schema@.plain_reference(concat('o.c', l.attnum), l.type),
                @schema@.plain_reference(concat('n.c', l.attnum), l.type),
                @schema@.plain_type(l.type)
            OFFSET 0  -- Computed once: the planner would put the calls wherever their results are used.
        ) AS p (old, new, type)
        CROSS JOIN LATERAL (SELECT CASE side.alias WHEN 'o' THEN p.old ELSE p.new END) AS s (reference)
        WHERE l.is_stored
    ),
    -- All values of a row share one document of 256 MB.
    bounded AS (
        SELECT v.*, 200000000 / greatest(1, count(v.size) OVER (PARTITION BY v.alias)) AS byte_limit
        FROM valued AS v
    ),
    formed AS MATERIALIZED (
        SELECT
            b.*,
            @schema@.difference_expression(b.old, b.new, b.type) AS difference,
            @schema@.is_equal_if_identical(b.type) AS is_compared,
            concat(b.size, ' > ' || CASE WHEN b.size IS NOT NULL THEN b.byte_limit END) AS is_large,
            CASE
                WHEN b.size IS NOT NULL
                THEN @schema@.large_entry_expression(b.name, b.reference, b.type, b.byte_limit)
            END AS large_entry,
            -- As jsonb orders its keys, to sort which takes as long as to make them.
            row_number() OVER (PARTITION BY b.alias ORDER BY octet_length(b.name), b.name COLLATE "C") AS place,
            @schema@.is_json_document(b.type) AS is_json,
            CASE
                -- The mark is no NULL.
                WHEN b.is_masked THEN NULL
                WHEN @schema@.is_json_document(b.type)
                THEN concat('(coalesce(to_jsonb(', b.value, ') = ''null''::jsonb, true) AND ',
                    @schema@.difference_expression(b.old, b.new, b.type), ')')
                -- A composite value "is null" if its fields are: not so here.
                ELSE concat('(', b.new, ' IS NOT DISTINCT FROM NULL AND ', b.old, ' IS DISTINCT FROM NULL)')
            END AS is_nulled
        FROM bounded AS b
    ),
    -- A function takes a hundred arguments.
    any_null AS (
        SELECT string_agg(concat('num_nulls(', g.columns, ') > 0'), ' OR ') AS any_null
        FROM (
            SELECT string_agg(f.new, ', ' ORDER BY f.place) AS columns
            FROM formed AS f
            WHERE f.alias = 'n' AND NOT f.is_json AND NOT f.is_masked
            GROUP BY f.place / 100
        ) AS g
    ),
    sides AS (
        SELECT
            f.alias,
            array_agg(f.name ORDER BY f.place) AS names,
            array_agg(f.difference ORDER BY f.place) AS differences,
            array_agg(f.is_nulled ORDER BY f.place) AS is_nulled,
            concat_ws(
                ' OR ',
                max(n.any_null),
                string_agg(f.is_nulled, ' OR ' ORDER BY f.place) FILTER (WHERE f.is_json)
            ) AS may_be_nulled,
            -- Without the large values, which are added.
            array_agg(
                CASE
                    WHEN f.size IS NULL THEN f.value
                    ELSE concat('CASE WHEN NOT ', f.is_large, ' THEN ', f.value, ' END')
                END ORDER BY f.place
            ) AS bounded,
            array_agg(f.large_entry ORDER BY f.place) AS large_entries,
            array_agg(
                'CASE WHEN ' || f.difference || ' THEN ' || f.large_entry || ' ELSE ''{}'' END' ORDER BY f.place
            ) AS changed_large_entries,
            concat('greatest(', string_agg(f.size, ', ' ORDER BY f.place), ') > ', max(f.byte_limit)) AS has_large,
            concat_ws(
                ' OR ',
                string_agg(f.difference, ' OR ' ORDER BY f.attnum) FILTER (WHERE f.is_compared),
                'record_image_ne(ROW(' || string_agg(f.old, ', ' ORDER BY f.attnum) FILTER (WHERE NOT f.is_compared)
                || '), ROW(' || string_agg(f.new, ', ' ORDER BY f.attnum) FILTER (WHERE NOT f.is_compared) || '))'
            ) AS differs
        FROM formed AS f
        CROSS JOIN any_null AS n
        GROUP BY f.alias
    ),
    documents AS (
        SELECT
            s.alias,
            s.differs,
            @schema@.document_expression(s.names, s.bounded) AS document,
            @schema@.large_values_expression(s.has_large, s.large_entries) AS large,
            concat(
                @schema@.changed_values_expression(s.names, s.differences, s.bounded),
                @schema@.large_values_expression(s.has_large, s.changed_large_entries),
                CASE
                    WHEN current_setting('server_version_num')::int >= 160000
                    THEN @schema@.nulls_expression(s.names, s.may_be_nulled, s.is_nulled)
                END
            ) AS changes
        FROM sides AS s
    )
    SELECT
        max(concat('old_row.document', d.large)) FILTER (WHERE d.alias = 'o'),
        max(concat(E'\nCROSS JOIN LATERAL ', d.document, ' AS old_row')) FILTER (WHERE d.alias = 'o'),
        max(concat('new_row.document', d.large)) FILTER (WHERE d.alias = 'n'),
        max(concat(E'\nCROSS JOIN LATERAL ', d.document, ' AS new_row')) FILTER (WHERE d.alias = 'n'),
        max(d.changes) FILTER (WHERE d.alias = 'n'),
        concat('(', max(d.differs), ')')
    INTO _old, _old_document, _new, _new_document, _changed, _differs
    FROM documents AS d;

    SELECT string_agg(concat('r.', quote_ident(a.attname), ' AS c', a.attnum), ', ' ORDER BY a.attnum)
    INTO _columns
    FROM pg_attribute AS a
    WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped;

    -- transaction_id() stands in a sub-select, so that it is called once, and not at all for a statement that changed
    -- nothing; and apart from the rest, in which a function that writes would cost each row a step of its own. For
    -- one row it needs neither, and that costs a tenth less.
    _head := concat(
        CASE
            WHEN operation <> 'UPDATE OF ONE'
            THEN E'WITH made AS MATERIALIZED (SELECT @schema@.transaction_id() AS id)\n'
        END,
        'INSERT INTO @schema@.activity (transaction_id, native_transaction_id, issued_at, relid, depth,',
        ' query_text, schema_name, table_name, verb, object_id, new_object_id, old_data, changed_data)',
        E'\nSELECT ',
        CASE operation WHEN 'UPDATE OF ONE' THEN '@schema@.transaction_id()' ELSE '(SELECT made.id FROM made)' END,
        ', pg_current_xact_id(), statement_timestamp(), ',
        relid, ', pg_trigger_depth(), ',
        CASE WHEN options @> '{"query_text": true}' THEN '(SELECT @schema@.query_text())' ELSE 'NULL' END,
        ', ', schema_name, ', ', table_name, ', '
    );
    old_rows := concat('FROM ', old_rows, ' AS r');
    new_rows := concat('FROM ', new_rows, ' AS r');

    RETURN CASE operation
        WHEN 'INSERT' THEN concat(
            _head, '''insert'', ', _new_key, ', NULL, NULL, ', _new,
            E'\nFROM (SELECT ', _columns, ' ', new_rows, ') AS n', _new_document,
            E'\nWHERE true' || nullif(_condition, '')
        )
        WHEN 'BASELINE' THEN concat(
            _head, '''baseline'', ', _new_key, ', NULL, NULL, ', _new,
            E'\nFROM (SELECT ', _columns, ' ', new_rows, ') AS n', _new_document,
            E'\nWHERE true', _condition
        )
        WHEN 'DELETE' THEN concat(
            _head, '''delete'', ', _old_key, ', NULL, ', _old, ', NULL',
            E'\nFROM (SELECT ', _columns, ' ', old_rows, ') AS o', _old_document,
            E'\nWHERE true' || nullif(_condition, '')
        )
        -- Old and new rows pair by their position. A FULL JOIN, because the plan of an inner join,
        -- made when the session updated single rows, is quadratic for the next bulk update.
        WHEN 'UPDATE' THEN concat(
            _head, '''update'', ', _old_key, ', nullif(', _new_key, ' COLLATE "C", ', _old_key, ' COLLATE "C"), ', _old, ', ', _changed,
            E'\nFROM (SELECT ', _columns, _ordinal, ' ', old_rows, ') AS o',
            E'\nFULL JOIN (SELECT ', _columns, _ordinal, ' ', new_rows, ') AS n USING (ordinal)', _old_document,
            E'\nWHERE ', _differs, _condition
        )
        -- Rows that went to another partition, some of them stopped on the way by a trigger: what
        -- has no partner was deleted or inserted.
        WHEN 'UPDATE BY KEY' THEN concat(
            _head, 'CASE WHEN n.ordinal IS NULL THEN ''delete'' WHEN o.ordinal IS NULL THEN ''insert'' ELSE ''update'' END, ',
            'object_id, NULL, ',
            'CASE WHEN o.ordinal IS NOT NULL THEN ', _old, ' END, ',
            'CASE WHEN o.ordinal IS NULL THEN ', _new, ' WHEN n.ordinal IS NOT NULL THEN ', _changed, ' END',
            E'\nFROM (SELECT r.*, ', _row_key, ' COLLATE "C" AS object_id FROM (SELECT ', _columns, _ordinal, ' ', old_rows, ') AS r) AS o',
            E'\nFULL JOIN (SELECT r.*, ', _row_key, ' COLLATE "C" AS object_id FROM (SELECT ', _columns, _ordinal, ' ', new_rows, ') AS r) AS n',
            E' USING (object_id)', _old_document, _new_document, E'\nWHERE (o.ordinal IS NULL OR n.ordinal IS NULL OR ', _differs, ')', _condition
        )
        -- One row and one row are a pair.
        ELSE concat(
            _head, '''update'', ', _old_key, ', nullif(', _new_key, ' COLLATE "C", ', _old_key, ' COLLATE "C"), ', _old, ', ', _changed,
            E'\nFROM (SELECT ', _columns, ' ', old_rows, ') AS o',
            E'\nCROSS JOIN (SELECT ', _columns, ' ', new_rows, ') AS n', _old_document,
            E'\nWHERE ', _differs, _condition
        )
    END;
END
$function$;

-- The statement that was sent, without the context that came in the same message.
CREATE OR REPLACE FUNCTION @schema@.query_text()
RETURNS text
LANGUAGE sql
STABLE
AS $function$
    -- Exactly what the extension sends, and one literal within it: anything else stays to be seen. Of a
    -- long text the beginning and the end, so that a comment cannot push the statement out.
    SELECT CASE
        WHEN length(s.text) <= 100000 THEN s.text
        ELSE concat(left(s.text, 50000), ' … ', right(s.text, 50000))
    END
    FROM (
        SELECT regexp_replace(
            current_query(),
            -- Without a backslash outside of E'', whose meaning a setting could change.
            E'^SELECT pg_catalog[.]set_config[(]''audit_app[.]context'', E?''([^''\\\\]|''''|\\\\.)*'', true[)];\n',
            ''
        )
    ) AS s (text)
$function$;

-- The trail could not be written, and the options say that the business write goes on.
CREATE OR REPLACE FUNCTION @schema@.record_gap(
    relid oid, schema_name text, table_name text, operation text, error_state text, error_message text
)
RETURNS void
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
BEGIN
    INSERT INTO @schema@.activity (
        transaction_id, native_transaction_id, issued_at, relid, depth, schema_name, table_name, verb, changed_data
    ) VALUES (
        @schema@.transaction_id(), pg_current_xact_id(), statement_timestamp(), relid, pg_trigger_depth(),
        schema_name, table_name, 'gap',
        jsonb_build_object('operation', lower(operation), 'sqlstate', error_state, 'message', left(error_message, 1000))
    );
EXCEPTION
    -- The trail's own faults: nothing can be written at all, and the server's log is what remains. Any other
    -- error can be brought about by the session (a read-only transaction, a stack or a lock table that is
    -- used up) and would be a way around the trail.
    WHEN undefined_table OR undefined_column OR undefined_function OR invalid_schema_name
        OR insufficient_privilege OR check_violation OR not_null_violation OR unique_violation
        OR foreign_key_violation OR sequence_generator_limit_exceeded OR raise_exception
        OR disk_full OR io_error OR data_corrupted OR index_corrupted
    THEN
        RAISE WARNING USING MESSAGE = concat(
            'audit trail: ', lower(operation), ' on ', schema_name, '.', table_name, ' was not recorded: ',
            left(error_message, 1000)
        );
END
$function$;

-- The number of the table that this capture function knows best. After a restore the table has another.
CREATE OR REPLACE FUNCTION @schema@.planned_relation(body text)
RETURNS text
LANGUAGE sql
IMMUTABLE
AS $function$
    SELECT pg_catalog.substring(body, 'TG_RELID = ([0-9]{1,10}) AND ')
$function$;

-- The body of a table's capture function.
--
--   planned   the number of the table that it knows best: this one, unless it was made for another cluster
CREATE OR REPLACE FUNCTION @schema@.capture_body(target oid, options jsonb, planned text DEFAULT NULL)
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
    _planned constant text := coalesce(planned, target::text);
    _is_row boolean := options @> '{"level": "row"}';
    _degrades boolean := options @> '{"on_error": "degrade"}';
    _is_partitioned boolean := (SELECT c.relkind = 'p' FROM pg_class AS c WHERE c.oid = target);
    _name record;
    -- A partition may have the same columns in another order.
    _shapes text := (
        SELECT string_agg(DISTINCT concat(quote_literal(@schema@.present_shape(r.oid)), '::text[]') COLLATE "C", ', ')
        FROM (SELECT target UNION SELECT p.relid FROM pg_partition_tree(target) AS p) AS r (oid)
    );
    _goes_by_key boolean := _is_partitioned AND NOT _is_row;
    _verb text := CASE WHEN _goes_by_key THEN '_operation' ELSE 'TG_OP' END;
    _operation text;
    _branches text := '';
    _fallback text;
    _old_rows text := CASE WHEN _is_row THEN '(SELECT OLD.*)' ELSE 'old_table' END;
    _new_rows text := CASE WHEN _is_row THEN '(SELECT NEW.*)' ELSE 'new_table' END;
    _schema_name text := 'TG_TABLE_SCHEMA';
    _table_name text := 'TG_TABLE_NAME';
BEGIN
    SELECT n.nspname AS schema, c.relname AS table INTO _name
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = target;
    IF _is_partitioned THEN
        -- What happens in a partition is the history of the table that it is a part of.
        _schema_name := quote_literal(_name.schema);
        _table_name := quote_literal(_name.table);
    END IF;
    FOREACH _operation IN ARRAY ARRAY['UPDATE', 'INSERT', 'DELETE', 'UPDATE BY KEY'] LOOP
        CONTINUE WHEN _operation = 'UPDATE BY KEY' AND NOT _goes_by_key;
        _branches := concat(
            _branches, CASE WHEN _branches = '' THEN '    IF ' ELSE '    ELSIF ' END,
            _verb, ' = ', quote_literal(_operation), E' THEN\n',
            -- One row is cheaper than lists of rows that are joined. Asked apart: within the statement it would be
            -- a reason to walk through all of its expressions at each execution.
            CASE WHEN _operation = 'UPDATE' AND NOT _is_row THEN concat(
                E'        IF NOT EXISTS (SELECT FROM old_table OFFSET 1) THEN\n',
                @schema@.capture_statement(
                    target, 'UPDATE OF ONE', options, NULL, 'TG_RELID', _schema_name, _table_name, _old_rows, _new_rows
                ),
                E';\n            RETURN NULL;\n        END IF;\n'
            ) END,
            @schema@.capture_statement(
                target, CASE WHEN _operation = 'UPDATE' AND _is_row THEN 'UPDATE OF ONE' ELSE _operation END,
                options, NULL, 'TG_RELID', _schema_name, _table_name, _old_rows, _new_rows
            ),
            E';\n'
        );
    END LOOP;

    _fallback := concat(
        E'            EXECUTE @schema@.capture_statement(
                TG_RELID, ', _verb, ', ', quote_literal(options), '::jsonb, ', quote_literal(_installed), E'::jsonb,
                ''$1'', ''$2'', ''$3'', ',
        CASE WHEN _is_row THEN '''(SELECT ($4).*)'', ''(SELECT ($5).*)''' ELSE '''old_table'', ''new_table''' END,
        E'
            ) USING TG_RELID, ', _schema_name, '::text, ', _table_name, '::text',
        CASE WHEN _is_row THEN ', OLD, NEW' END, E';\n'
    );
    IF options ? 'when' THEN
        -- Where the condition no longer fits the table, everything is recorded.
        _fallback := concat(
            E'            BEGIN\n', _fallback,
            E'            EXCEPTION WHEN undefined_column OR undefined_function OR datatype_mismatch THEN\n',
            replace(_fallback, quote_literal(options), quote_literal(options - 'when')), E'            END;\n'
        );
    END IF;

    RETURN concat(
        E'
-- Made by audit_table(), which makes it anew whenever the table is audited again.
#variable_conflict use_column
DECLARE
', CASE WHEN _goes_by_key THEN E'    _operation text := TG_OP;\n' END,
        E'    _keeps_view constant boolean := current_setting(''transaction_isolation'') IN (''repeatable read'', ''serializable'');
    _is_known boolean := false;
    _settings text[];
BEGIN
    IF coalesce(current_setting(''audit_app.suspension'', true), '''') <> '''' AND @schema@.is_suspended() THEN
        RETURN NULL;
    END IF;
',
        CASE WHEN _goes_by_key THEN E'    -- A row that a trigger stopped on its way to another partition leaves an old row without a new one.
    IF _operation = ''UPDATE'' THEN
        IF (SELECT count(*) FROM old_table) <> (SELECT count(*) FROM new_table) THEN
            _operation := ''UPDATE BY KEY'';
        END IF;
    END IF;
' END,
        CASE WHEN _degrades THEN E'    BEGIN\n' END,
        CASE WHEN NOT _is_partitioned THEN concat(
            E'    -- Two conditions: the plan of the second must not be made by those who keep an old view.
    IF NOT _keeps_view THEN
        _is_known := TG_RELID = ', _planned, ' AND @schema@.planned_shape(', quote_literal(_planned), '::regclass) = ', _shapes, E';
    END IF;
'
        ) END,
        E'    IF NOT _is_known AND TG_OP <> ''TRUNCATE'' THEN
        IF _keeps_view THEN
            PERFORM @schema@.require_present_shape(TG_RELID);
        END IF;
        -- Altered by hand? Then with the columns as they are now; the trail stays whole.
        IF NOT @schema@.present_shape(TG_RELID) IN (', _shapes, E') THEN
            _settings := @schema@.exchange_settings(@schema@.fixed_settings());
', _fallback, E'            PERFORM @schema@.exchange_settings(_settings);
            RETURN NULL;
        END IF;
    END IF;
', _branches, E'    ELSE
        PERFORM @schema@.capture_truncate(TG_RELID, ', _schema_name, ', ', _table_name, E');
    END IF;
',
        CASE WHEN _degrades THEN concat(E'    EXCEPTION WHEN OTHERS THEN
        PERFORM @schema@.record_gap(
            TG_RELID, ', _schema_name, ', ', _table_name, ', TG_OP, SQLSTATE, ',
            -- A message may quote a value that must not be stored.
            CASE
                WHEN options -> 'exclude' = '[]' AND NOT options ?| ARRAY['include', 'mask'] THEN 'SQLERRM'
                ELSE 'NULL'
            END, E'
        );
    END;
') END,
        E'    RETURN NULL;
END
'
    );
END
$function$;

-- A truncation is one activity for each table that holds rows, with their number where that is cheap to say.
CREATE OR REPLACE FUNCTION @schema@.capture_truncate(target oid, schema_name text, table_name text)
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
        AND has_schema_privilege((SELECT c.relnamespace FROM pg_class AS c WHERE c.oid = target), 'USAGE')
        AND NOT row_security_active(target);
BEGIN
    -- TRUNCATE of a partitioned table fires the partitions' triggers too: they record it, each for its own
    -- rows. To guess whether a partition's is part of its parent's would be a way to lose one.
    IF (SELECT c.relkind = 'p' FROM pg_class AS c WHERE c.oid = target)
        AND EXISTS (SELECT FROM pg_partition_tree(target) AS p WHERE p.isleaf)
        AND NOT EXISTS (
            SELECT
            FROM pg_partition_tree(target) AS p
            WHERE p.isleaf
              AND NOT EXISTS (
                  SELECT
                  FROM pg_trigger AS t
                  WHERE t.tgrelid = p.relid AND t.tgname = @schema@.trigger_name('truncate')
                    AND t.tgenabled IN ('A', 'O')
              )
        )
    THEN
        RETURN;
    END IF;
    IF coalesce(_bytes, pg_relation_size(target)) <= 8388608 AND _readable THEN
        EXECUTE concat('SELECT count(*) FROM ', target::regclass) INTO _rows;
    END IF;
    INSERT INTO @schema@.activity (
        transaction_id, native_transaction_id, issued_at, relid, depth,
        schema_name, table_name, verb, old_data
    ) VALUES (
        @schema@.transaction_id(), pg_current_xact_id(), statement_timestamp(), target, pg_trigger_depth(),
        schema_name, table_name, 'truncate',
        CASE
            WHEN _rows IS NOT NULL THEN jsonb_build_object('rows', _rows)
            ELSE jsonb_build_object('rows_estimated', pg_stat_get_live_tuples(target))
        END
    );
END
$function$;
