-- Every schema with its comment.
SELECT
    n.oid AS oid,
    CAST(n.nspname AS text) AS name,
    pg_catalog.obj_description(n.oid, CAST('pg_namespace' AS name)) AS comment
FROM pg_catalog.pg_namespace AS n
