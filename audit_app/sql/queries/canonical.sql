-- What stored values are in the present types of their columns.
SELECT k.ordinal, CAST(pg_catalog.to_json(v) AS pg_catalog.text) AS document
FROM pg_catalog.json_array_elements(CAST(:documents AS pg_catalog.json)) WITH ORDINALITY AS k (document, ordinal)
CROSS JOIN LATERAL pg_catalog.json_to_record(k.document) AS v (@definitions@)
ORDER BY k.ordinal
