-- The rows of a table that have these keys, as the trail would store them; in the order of the keys, so
-- that whoever locks them does so in one order.
SELECT k.ordinal, CAST((SELECT pg_catalog.to_json(s) FROM (SELECT @columns@) AS s) AS pg_catalog.text) AS document
FROM pg_catalog.json_array_elements(CAST(:documents AS pg_catalog.json)) WITH ORDINALITY AS k (document, ordinal)
CROSS JOIN LATERAL pg_catalog.json_to_record(k.document) AS v (@definitions@)
JOIN @table@ AS t ON @match@
ORDER BY @order@
