-- One batch of transactions. What is there already stays: so a batch may be repeated.
INSERT INTO @schema@.transaction (
    id, native_transaction_id, issued_at, actor_id, client_addr, session_user_name, role_name, metadata
)
OVERRIDING SYSTEM VALUE
SELECT
    CAST(:low AS bigint) + t.id,
    CAST(coalesce(CAST(t.native_transaction_id AS text), '0') AS xid8),
    coalesce(@transaction_issued_at@, 'epoch'),
    left(d.document ->> 'actor_id', 500),
    CAST(d.document ->> 'client_addr' AS inet),
    -- They did not record whose session it was.
    '',
    '',
    jsonb_build_object('imported_from', CAST(:flavour AS text), 'schema', CAST(:source AS text), 'id', t.id)
    -- Columns that the application had added.
    || CASE WHEN e.extra = '{}' THEN '{}' ELSE jsonb_build_object('columns', e.extra) END
FROM @source@.transaction AS t
CROSS JOIN LATERAL (SELECT to_jsonb(t)) AS d (document)
CROSS JOIN LATERAL (
    SELECT jsonb_strip_nulls(
        d.document - CAST(ARRAY['id', 'native_transaction_id', 'issued_at', 'actor_id', 'client_addr'] AS text[])
    )
) AS e (extra)
WHERE t.id > :after
  AND t.id <= :until
  AND NOT EXISTS (SELECT FROM @schema@.transaction AS o WHERE o.id = CAST(:low AS bigint) + t.id)
ON CONFLICT (id) DO NOTHING
