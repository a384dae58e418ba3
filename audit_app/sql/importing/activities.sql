-- One batch of activities, in the form of ours. What is there already stays.
INSERT INTO @schema@.activity (
    id, transaction_id, native_transaction_id, issued_at, relid, depth, schema_name, table_name, verb,
    object_id, new_object_id, old_data, changed_data
)
OVERRIDING SYSTEM VALUE
SELECT
    CAST(:low AS bigint) + a.id,
    CASE
        WHEN t.id IS NULL THEN CAST(:unattributed AS bigint) + CAST(CAST(a.xid AS text) AS bigint)
        ELSE CAST(:low AS bigint) + t.id
    END,
    a.xid,
    coalesce(a.issued_at, 'epoch'),
    a.relid,
    1,
    a.schema_name,
    a.table_name,
    a.verb,
    CASE
        WHEN a.verb = 'insert' AND new_key.text IS NOT NULL THEN @schema@.object_id(new_key.text)
        WHEN a.verb <> 'insert' AND old_key.text IS NOT NULL THEN @schema@.object_id(old_key.text)
    END,
    CASE
        WHEN a.verb = 'update' AND new_key.text <> old_key.text COLLATE "C" THEN @schema@.object_id(new_key.text)
    END,
    a.old_data,
    a.changed_data
FROM (
    SELECT
        a.id,
        a.transaction_id,
        CAST(coalesce(CAST(a.native_transaction_id AS text), '0') AS xid8) AS xid,
        @activity_issued_at@ AS issued_at,
        -- They keep it as a signed number.
        CAST(coalesce(CAST(a.relid AS integer), 0) AS oid) AS relid,
        coalesce(a.@schema_column@, '') AS schema_name,
        coalesce(a.table_name, '') AS table_name,
        coalesce(lower(a.verb), '') AS verb,
        -- An empty document stands for "none" there.
        CASE WHEN lower(a.verb) <> 'insert' THEN nullif(nullif(a.old_data, 'null'), '{}') END AS old_data,
        CASE WHEN lower(a.verb) <> 'delete' THEN nullif(nullif(a.changed_data, 'null'), '{}') END AS changed_data
    FROM @source@.activity AS a
    WHERE a.id > :after AND a.id <= :until
) AS a
LEFT JOIN @source@.transaction AS t ON t.id = a.transaction_id
LEFT JOIN jsonb_to_recordset(CAST(:keys AS jsonb)) AS k (schema_name text, table_name text, parts jsonb)
    ON k.schema_name = a.schema_name AND k.table_name = a.table_name
CROSS JOIN LATERAL (@key_of_old@) AS old_key (text)
CROSS JOIN LATERAL (@key_of_new@) AS new_key (text)
WHERE NOT EXISTS (SELECT FROM @schema@.activity AS o WHERE o.id = CAST(:low AS bigint) + a.id)
ON CONFLICT (id) DO NOTHING
