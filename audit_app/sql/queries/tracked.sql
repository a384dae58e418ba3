-- The tables that a trail tracks.
SELECT DISTINCT
    CAST(t.tgrelid AS bigint) AS oid,
    pg_catalog.format('%I.%I', s.nspname, c.relname) AS name
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
JOIN pg_catalog.pg_namespace AS s ON s.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE CAST(n.nspname AS text) OPERATOR(pg_catalog.=) CAST(:schema AS text)
  AND pg_catalog.starts_with(CAST(p.proname AS text), CAST('capture_' AS text))
  -- A partition goes with the table that it is a part of.
  AND NOT EXISTS (
      SELECT
      FROM pg_catalog.pg_partition_ancestors(t.tgrelid) AS a
      JOIN pg_catalog.pg_trigger AS o
        ON o.tgrelid OPERATOR(pg_catalog.=) CAST(a.relid AS oid)
        AND o.tgfoid OPERATOR(pg_catalog.=) t.tgfoid
      WHERE CAST(a.relid AS oid) OPERATOR(pg_catalog.<>) t.tgrelid
  )
ORDER BY 2
