-- The end of the next batch.
SELECT max(b.id) AS until, count(*) AS rows
FROM (SELECT r.id FROM @source@.@relation@ AS r WHERE r.id > :after ORDER BY r.id LIMIT :size) AS b
