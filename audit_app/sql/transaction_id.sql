-- The row of @schema@.transaction for this database transaction and the present context, made at
-- the first change. Called by the capture functions only, which fix the search_path.
--
-- A plan that was made while the table was one page long would read all of it for each statement, and grow with
-- it; with partitions that is the case anew each month.
CREATE OR REPLACE FUNCTION @schema@.transaction_id()
RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off
AS $function$
DECLARE
    -- Any role can set these two, to anything. The context is a claim; the memo saves a search.
    _context text := coalesce(pg_catalog.current_setting('audit_app.context', true), '');
    _memo text := coalesce(pg_catalog.current_setting('audit_app.transaction', true), '');
    -- Left by the trigger's condition: current_user is the owner of the capture function here.
    _role text := coalesce(nullif(pg_catalog.current_setting('audit_app.writer', true), ''), session_user);
    _id bigint;
    _claims jsonb;
    _client_addr inet;
BEGIN
    -- The memo is "<place> <context>". It is believed only if the row at that place was made by this very
    -- transaction: ids repeat in a restored cluster, so the number alone would not do. Read by its place
    -- and not through an index, since a SERIALIZABLE transaction that reads a page of an index conflicts
    -- with all others that add to it.
    IF _memo <> '' AND _memo ~ '^[(][0-9]{1,9},[0-9]{1,4}[)] ' AND substr(_memo, strpos(_memo, ' ') + 1) = _context THEN
        SELECT t.id INTO _id
        FROM @schema@.transaction AS t
        WHERE t.ctid = split_part(_memo, ' ', 1)::tid
          AND t.native_transaction_id = pg_catalog.pg_current_xact_id()
          -- Leaves one partition to look into: the same place is in each of them.
          AND t.issued_at = pg_catalog.transaction_timestamp()
          -- A session that acts under another role from here on gets a row of its own.
          AND t.role_name = _role;
        IF FOUND THEN
            RETURN _id;
        END IF;
    END IF;

    IF _context <> '' THEN
        BEGIN
            -- Ours are at most some thousand characters long.
            _claims := CASE WHEN octet_length(_context) <= 1000000 THEN _context::jsonb END;
            _client_addr := (_claims ->> 'client_addr')::inet;
        EXCEPTION WHEN OTHERS THEN
            -- Whoever set garbage must neither break the write nor hide that it was garbage.
            IF _claims IS NOT NULL THEN
                _claims := jsonb_set(
                    _claims,
                    '{metadata}',
                    CASE jsonb_typeof(_claims -> 'metadata') WHEN 'object' THEN _claims -> 'metadata' ELSE '{}' END
                    || jsonb_build_object('client_addr', left(_claims ->> 'client_addr', 200))
                );
            END IF;
        END;
    END IF;

    INSERT INTO @schema@.transaction (
        native_transaction_id, issued_at, actor_id, actor_label, client_addr,
        session_user_name, role_name, application_name,
        request_id, method, url, reason, metadata
    ) VALUES (
        pg_catalog.pg_current_xact_id(),
        pg_catalog.transaction_timestamp(),
        -- An index entry has a limit; an actor beyond it must not fail the write.
        left(_claims ->> 'actor_id', 500),
        left(_claims ->> 'actor_label', 500),
        _client_addr,
        session_user,
        _role,
        nullif(pg_catalog.current_setting('application_name', true), ''),
        _claims ->> 'request_id',
        _claims ->> 'method',
        _claims ->> 'url',
        _claims ->> 'reason',
        CASE jsonb_typeof(_claims)
            WHEN 'object' THEN _claims -> 'metadata'
            ELSE CASE WHEN _context <> '' THEN jsonb_build_object('invalid_context', left(_context, 1000)) END
        END
    )
    RETURNING
        id,
        -- A context of that size is nobody's honest one, and its memo could not be stored.
        CASE WHEN octet_length(_context) <= 1000000 THEN
            pg_catalog.set_config('audit_app.transaction', concat(ctid, ' ', _context), true)
        END
    INTO _id, _memo;
    RETURN _id;
END
$function$;
