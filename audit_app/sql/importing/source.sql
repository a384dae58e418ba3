-- What the relations transaction and activity in another schema look like: one row for each column.
SELECT c.relname AS relation, a.attname AS name, CAST(format_type(a.atttypid, NULL) AS text) AS type
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
WHERE n.nspname = :source
  AND c.relname IN ('activity', 'transaction')
  AND c.relkind IN ('r', 'p', 'v', 'm')
  AND a.attnum > 0
  AND NOT a.attisdropped
