-- The tables on which the functions of another schema still record.
SELECT DISTINCT CAST(CAST(t.tgrelid AS regclass) AS text)
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = :source
  AND p.proname = 'create_activity'
  AND NOT t.tgisinternal
  AND t.tgenabled <> 'D'
ORDER BY 1
