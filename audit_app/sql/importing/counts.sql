SELECT a.schema_name, a.table_name, a.verb, count(*) AS rows
FROM @schema@.activity AS a
WHERE a.id > :low AND a.id < :high
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
