-- Former values for a row.
UPDATE @table@ AS t
SET @values@
FROM
    pg_catalog.json_to_record(CAST(:document AS pg_catalog.json)) AS v (@definitions@),
    pg_catalog.json_to_record(CAST(:key AS pg_catalog.json)) AS k (@key@)
WHERE @match@
