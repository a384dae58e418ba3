-- The tables in the schema of a trail that are its partitions, or that a splitting of one has made.
SELECT CAST(c.relname AS text)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE CAST(n.nspname AS text) OPERATOR(pg_catalog.=) CAST(:schema AS text)
  AND (
      c.relispartition
      OR pg_catalog.starts_with(
          pg_catalog.obj_description(c.oid, CAST('pg_class' AS name)), CAST('audit_app split' AS text)
      )
  )
