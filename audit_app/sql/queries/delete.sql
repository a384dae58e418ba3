-- A row that was not there.
DELETE FROM @table@ AS t
USING pg_catalog.json_to_record(CAST(:key AS pg_catalog.json)) AS k (@key@)
WHERE @match@
