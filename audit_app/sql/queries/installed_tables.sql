-- The tables that a trail tracks, partitions aside, each with the comment on its capture function.
SELECT DISTINCT ON (c.oid)
    pg_catalog.concat(
        pg_catalog.quote_ident(CAST(n.nspname AS text)), CAST('.' AS text), pg_catalog.quote_ident(CAST(c.relname AS text))
    ) AS name,
    pg_catalog.obj_description(p.oid, CAST('pg_proc' AS name)) AS comment
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE p.pronamespace OPERATOR(pg_catalog.=) CAST(:schema AS oid)
  AND NOT c.relispartition
  AND c.relnamespace OPERATOR(pg_catalog.<>) p.pronamespace
