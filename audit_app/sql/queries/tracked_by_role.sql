-- What a role may do to the tables that a trail tracks, besides writing to them.
SELECT DISTINCT
    CAST(CAST(t.tgrelid AS regclass) AS text) AS name,
    pg_catalog.pg_has_role(CAST(:role AS name), c.relowner, CAST('MEMBER' AS text)) AS is_owned,
    pg_catalog.has_table_privilege(
        CAST(:role AS name), c.oid, CAST('TRIGGER, REFERENCES' AS text)
    ) AS is_replaceable
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
WHERE CAST(n.nspname AS text) OPERATOR(pg_catalog.=) CAST(:schema AS text)
  AND pg_catalog.starts_with(CAST(p.proname AS text), CAST('capture_' AS text))
ORDER BY 1
