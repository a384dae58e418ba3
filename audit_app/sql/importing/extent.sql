-- The ends of the ids that the source has given.
SELECT
    coalesce(least((SELECT min(a.id) FROM @source@.activity AS a), (SELECT min(t.id) FROM @source@.transaction AS t)), 1) AS lowest,
    coalesce(greatest((SELECT max(a.id) FROM @source@.activity AS a), (SELECT max(t.id) FROM @source@.transaction AS t)), 1) AS highest
