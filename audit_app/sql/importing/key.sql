-- The columns of a table's primary key in their order, domains as what they are made of.
SELECT a.attname AS name, CAST(format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, NULL) AS text) AS type
FROM pg_catalog.pg_index AS i
CROSS JOIN LATERAL unnest(CAST(i.indkey AS smallint[])) WITH ORDINALITY AS k (attnum, n)
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
WHERE i.indisprimary AND i.indrelid = to_regclass(:relation)
ORDER BY k.n
