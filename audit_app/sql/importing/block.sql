-- Whose rows a block of ids holds; no row if it is free.
SELECT t.metadata ->> 'schema'
FROM @schema@.transaction AS t
WHERE t.id > :low AND t.id < :high
ORDER BY t.id
LIMIT 1
