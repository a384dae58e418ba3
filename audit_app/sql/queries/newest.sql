-- The newest activity of each of these records; of a table's truncations where no key is given.
SELECT
    g.ordinal,
    CASE WHEN pg_catalog.json_array_length(g.document -> 'keys') = 0 THEN (
        SELECT max(a.id)
        FROM pg_catalog.json_array_elements(g.document -> 'names') AS n (name)
        JOIN @schema@.activity AS a ON a.table_name = n.name ->> 1 AND a.schema_name = n.name ->> 0
        WHERE a.object_id IS NULL AND a.verb = 'truncate'
    ) ELSE (
        SELECT max(found.id)
        FROM pg_catalog.json_array_elements(g.document -> 'names') AS n (name)
        CROSS JOIN pg_catalog.json_array_elements_text(g.document -> 'keys') AS k (key)
        CROSS JOIN LATERAL (
            SELECT max(a.id) AS id
            FROM @schema@.activity AS a
            WHERE a.object_id = k.key AND a.table_name = n.name ->> 1 AND a.schema_name = n.name ->> 0
            UNION ALL
            SELECT max(a.id)
            FROM @schema@.activity AS a
            WHERE a.new_object_id = k.key AND a.new_object_id IS NOT NULL
              AND a.table_name = n.name ->> 1 AND a.schema_name = n.name ->> 0
        ) AS found
    ) END AS id
FROM pg_catalog.json_array_elements(CAST(:documents AS pg_catalog.json)) WITH ORDINALITY AS g (document, ordinal)
ORDER BY g.ordinal
