-- The last change of each table, as far as the newest part of the trail tells: a table that changed long
-- ago would take a walk through all of it.
SELECT a.schema_name, a.table_name, max(a.issued_at) AS issued_at, max(a.id) AS id
FROM (
    SELECT r.id, r.schema_name, r.table_name, r.issued_at
    FROM @schema@.activity AS r
    ORDER BY r.id DESC
    LIMIT :scan
) AS a
GROUP BY a.schema_name, a.table_name
