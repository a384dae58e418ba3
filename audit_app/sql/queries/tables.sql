-- The tables that are declared or tracked, with the state of their triggers. Reads the catalog only, and
-- what every role may read there.
WITH declared AS (
    SELECT d.name, CAST(d.oid AS oid) AS oid, d.position
    FROM unnest(CAST(:names AS text[]), CAST(:relations AS bigint[])) WITH ORDINALITY AS d (name, oid, position)
),
trigger AS (
    SELECT t.tgrelid, t.tgname, t.tgenabled, p.oid AS function
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = @schema_literal@ AND starts_with(p.proname, 'capture_')
),
listed AS (
    SELECT d.oid, d.name, d.position FROM declared AS d
    UNION ALL
    SELECT DISTINCT t.tgrelid, CAST(CAST(t.tgrelid AS regclass) AS text), CAST(NULL AS bigint)
    FROM trigger AS t
    WHERE NOT t.tgrelid IN (SELECT d.oid FROM declared AS d WHERE d.oid IS NOT NULL)
      AND NOT EXISTS (
          SELECT
          FROM pg_partition_ancestors(t.tgrelid) AS a
          JOIN trigger AS above ON above.tgrelid = a.relid
          WHERE a.relid <> t.tgrelid
      )
)
SELECT
    l.name,
    CAST(CAST(l.oid AS regclass) AS text) AS relation,
    n.nspname AS schema_name,
    c.relname AS table_name,
    l.position,
    l.oid IS NOT NULL AS exists,
    s.bytes,
    s.rows_estimate,
    s.partitions,
    t.triggers,
    t.working,
    obj_description(t.function, 'pg_proc') AS comment
FROM listed AS l
LEFT JOIN pg_class AS c ON c.oid = l.oid
LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT
        CAST(sum(pg_total_relation_size(p.oid)) AS bigint) AS bytes,
        -- Below zero: never analyzed, so nobody knows.
        CAST(sum(p.reltuples) FILTER (WHERE p.relkind <> 'p' AND p.reltuples >= 0) AS bigint) AS rows_estimate,
        count(*) - 1 AS partitions
    FROM pg_class AS p
    WHERE p.oid = l.oid OR p.oid IN (SELECT tree.relid FROM pg_partition_tree(l.oid) AS tree)
) AS s ON true
LEFT JOIN LATERAL (
    SELECT
        count(*) AS triggers,
        count(*) FILTER (WHERE g.tgenabled = 'A') AS working,
        min(g.function) AS function
    FROM trigger AS g
    WHERE g.tgrelid = l.oid
) AS t ON true
ORDER BY l.position, l.name
