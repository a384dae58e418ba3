-- Where the counts of the two trails are not equal. No row is the proof that everything arrived.
SELECT coalesce(s.schema_name, o.schema_name) AS schema_name, coalesce(s.table_name, o.table_name) AS table_name,
    coalesce(s.verb, o.verb) AS verb, coalesce(s.rows, 0) AS source_rows, coalesce(o.rows, 0) AS rows
FROM (
    SELECT coalesce(a.@schema_column@, '') AS schema_name, coalesce(a.table_name, '') AS table_name, coalesce(lower(a.verb), '') AS verb, count(*) AS rows
    FROM @source@.activity AS a
    GROUP BY 1, 2, 3
) AS s
FULL JOIN (
    SELECT a.schema_name, a.table_name, a.verb, count(*) AS rows
    FROM @schema@.activity AS a
    JOIN @schema@.transaction AS t ON t.id = a.transaction_id
    WHERE a.id > :low AND a.id < :high
    GROUP BY 1, 2, 3
) AS o USING (schema_name, table_name, verb)
WHERE s.rows IS DISTINCT FROM o.rows
UNION ALL
SELECT '', 'transaction', '', s.rows, o.rows
FROM (SELECT count(*) FROM @source@.transaction) AS s (rows)
CROSS JOIN (SELECT count(*) FROM @schema@.transaction AS t WHERE t.id > :low AND t.id < :unattributed) AS o (rows)
WHERE s.rows <> o.rows
ORDER BY 1, 2, 3
