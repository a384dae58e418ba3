-- A transaction for those activities of a batch that have none: what raw SQL had written. They are
-- told apart by the number of the database transaction; nobody is known to have acted.
INSERT INTO @schema@.transaction (id, native_transaction_id, issued_at, session_user_name, role_name, metadata)
OVERRIDING SYSTEM VALUE
SELECT
    CAST(:unattributed AS bigint) + CAST(CAST(a.xid AS text) AS bigint),
    a.xid,
    min(a.issued_at),
    '',
    '',
    jsonb_build_object('imported_from', CAST(:flavour AS text), 'schema', CAST(:source AS text), 'id', NULL)
FROM (
    SELECT
        CAST(coalesce(CAST(a.native_transaction_id AS text), '0') AS xid8) AS xid,
        coalesce(@activity_issued_at@, 'epoch') AS issued_at
    FROM @source@.activity AS a
    LEFT JOIN @source@.transaction AS t ON t.id = a.transaction_id
    WHERE a.id > :after AND a.id <= :until AND t.id IS NULL
) AS a
GROUP BY a.xid
ON CONFLICT (id) DO NOTHING
