-- The names of the tables that the source tells about.
SELECT DISTINCT coalesce(a.@schema_column@, '') AS schema_name, coalesce(a.table_name, '') AS table_name
FROM @source@.activity AS a
ORDER BY 1, 2
