-- The trail as a whole: which version is installed, and how large it is.
SELECT
    obj_description(n.oid, 'pg_namespace') AS comment,
    CAST(pg_get_userbyid(n.nspowner) AS text) AS owner,
    (
        SELECT CAST(sum(pg_total_relation_size(p.oid)) AS bigint)
        FROM pg_class AS p
        WHERE p.relnamespace = n.oid AND p.relkind IN ('r', 'm')
    ) AS bytes,
    (
        SELECT CAST(sum(p.reltuples) FILTER (WHERE p.reltuples >= 0) AS bigint)
        FROM pg_class AS p
        WHERE p.relnamespace = n.oid AND p.relkind = 'r'
          AND (p.relname = 'activity' OR p.oid IN (SELECT i.inhrelid FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhparent WHERE c.relnamespace = n.oid AND c.relname = 'activity'))
    ) AS activities_estimate
FROM pg_namespace AS n
WHERE n.nspname = @schema_literal@
