-- The functions of a trail, those of the tracked tables aside, in the order of their creation.
SELECT
    CAST(p.proname AS text) AS name,
    p.prosrc AS body,
    pg_catalog.pg_get_functiondef(p.oid) AS definition
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace OPERATOR(pg_catalog.=) CAST(:schema AS oid)
  AND (
      CAST(p.proname AS text) OPERATOR(pg_catalog.=) CAST('refuse' AS text)
      OR p.prorettype OPERATOR(pg_catalog.<>) CAST(CAST('pg_catalog.trigger' AS regtype) AS oid)
  )
ORDER BY p.oid
