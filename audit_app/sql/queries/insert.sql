-- A row with its former values, its identity too.
INSERT INTO @table@ (@columns@)
OVERRIDING SYSTEM VALUE
SELECT @values@
FROM pg_catalog.json_to_record(CAST(:document AS pg_catalog.json)) AS v (@definitions@)
