-- The full name of a table; no row where there is none.
SELECT pg_catalog.concat(
    pg_catalog.quote_ident(CAST(n.nspname AS text)), CAST('.' AS text), pg_catalog.quote_ident(CAST(c.relname AS text))
)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.oid OPERATOR(pg_catalog.=) CAST(pg_catalog.to_regclass(CAST(:name AS text)) AS oid)
