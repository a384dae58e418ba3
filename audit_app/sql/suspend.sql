-- Suspending the capture. There is no setting that does it: a suspension is a row in the trail, and
-- whoever may not write the trail has only these two functions for it, which must be granted.

-- The role that the session acts as. In a SECURITY DEFINER function current_user is not.
CREATE OR REPLACE FUNCTION @schema@.caller()
RETURNS text
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(nullif(current_setting('role', true), 'none'), session_user)
$function$;

-- Leave a mark of the trail's own in the trail: its id, and where it stands.
--
--   relation   what it is about, where that is to be found again
CREATE OR REPLACE FUNCTION @schema@.mark(
    verb text, facts jsonb, relation text DEFAULT NULL, kept jsonb DEFAULT NULL, OUT id bigint, OUT place tid
)
RETURNS record
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM set_config('audit_app.writer', @schema@.caller(), true);
    INSERT INTO @schema@.activity AS a (
        transaction_id, native_transaction_id, issued_at, relid, depth,
        schema_name, table_name, verb, object_id, old_data, changed_data
    ) VALUES (
        @schema@.transaction_id(), pg_current_xact_id(), statement_timestamp(),
        '@schema@.activity'::regclass, pg_trigger_depth(),
        @schema_literal@, 'activity', verb,
        CASE WHEN relation IS NOT NULL THEN @schema@.object_id(relation) END, kept, facts
    )
    RETURNING a.id, a.ctid INTO id, place;
END
$function$;

CREATE OR REPLACE FUNCTION @schema@.suspend(reason text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _mark record := @schema@.mark('suspend', jsonb_strip_nulls(jsonb_build_object('reason', reason)));
BEGIN
    -- The stack of open suspensions, the innermost last: each its id and place, and worth nothing without
    -- the row that it names.
    PERFORM set_config(
        'audit_app.suspension',
        ltrim(concat(current_setting('audit_app.suspension', true), ' ', _mark.id, _mark.place)),
        true
    );
    RETURN _mark.id;
END
$function$;

CREATE OR REPLACE FUNCTION @schema@.resume(suspension bigint)
RETURNS void
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    _open text[] := string_to_array(coalesce(current_setting('audit_app.suspension', true), ''), ' ');
BEGIN
    -- The trail knows what is open; the setting is anybody's. After a commit inside the block there is
    -- nothing left to resume.
    IF NOT @schema@.is_open(suspension) THEN
        RETURN;
    END IF;
    PERFORM @schema@.mark('resume', jsonb_build_object('suspension', suspension));
    PERFORM set_config(
        'audit_app.suspension',
        (
            SELECT coalesce(string_agg(o.token, ' ' ORDER BY o.ordinal), '')
            FROM unnest(_open) WITH ORDINALITY AS o (token, ordinal)
            WHERE NOT starts_with(o.token, concat(suspension, '('))
        ),
        true
    );
END
$function$;

-- Was this suspension made by this very transaction, and not resumed?
CREATE OR REPLACE FUNCTION @schema@.is_open(suspension bigint)
RETURNS boolean
LANGUAGE plpgsql
STABLE
AS $function$
BEGIN
    RETURN EXISTS (
        SELECT
        FROM @schema@.activity AS a
        JOIN @schema@.transaction AS t ON t.id = a.transaction_id
        WHERE a.id = suspension
          AND a.verb = 'suspend'
          AND a.native_transaction_id = pg_catalog.pg_current_xact_id()
          -- What this transaction wrote is not older: of a partitioned trail, the past is not looked into.
          AND a.issued_at >= pg_catalog.transaction_timestamp()
          AND t.issued_at = pg_catalog.transaction_timestamp()
          AND NOT EXISTS (
              SELECT
              FROM @schema@.activity AS r
              WHERE r.native_transaction_id = a.native_transaction_id
                AND r.id > a.id
                AND r.issued_at >= pg_catalog.transaction_timestamp()
                AND r.verb = 'resume'
                AND (r.changed_data ->> 'suspension') = a.id::text
          )
    );
END
$function$;

-- Asked by the capture functions only where the setting is not empty. Nobody nests a hundred of them: a
-- longer setting was made to slow the writes down.
CREATE OR REPLACE FUNCTION @schema@.is_suspended()
RETURNS boolean
LANGUAGE plpgsql
STABLE
AS $function$
DECLARE
    _open text := pg_catalog.current_setting('audit_app.suspension', true);
BEGIN
    IF octet_length(_open) > 4000 THEN
        RETURN false;
    END IF;
    -- First by its place: to look through an index on behalf of anybody who fills the setting would make
    -- SERIALIZABLE transactions of others fail.
    RETURN EXISTS (
        SELECT
        FROM unnest(string_to_array(_open, ' ')) AS open (token)
        WHERE CASE
            WHEN NOT open.token ~ '^[0-9]{1,18}[(][0-9]{1,9},[0-9]{1,4}[)]$' THEN false
            WHEN EXISTS (
                SELECT
                FROM @schema@.activity AS a
                WHERE a.ctid = substr(open.token, strpos(open.token, '('))::tid
                  AND a.id = split_part(open.token, '(', 1)::bigint
                  AND a.native_transaction_id = pg_catalog.pg_current_xact_id()
                  AND a.issued_at >= pg_catalog.transaction_timestamp()
            ) THEN @schema@.is_open(split_part(open.token, '(', 1)::bigint)
        END
    );
END
$function$;
