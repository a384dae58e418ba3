-- The trail is only ever added to. Maintenance (retention, renames) is a matter for its owner, who
-- disables these triggers in the same transaction and by that leaves a trace in the server's log.
CREATE OR REPLACE FUNCTION @schema@.refuse()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    RAISE insufficient_privilege USING
        MESSAGE = concat('the audit trail is append-only: ', lower(TG_OP), ' on ', TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, ' was refused'),
        HINT = 'Nothing was changed. Only the maintenance functions of the trail may remove or rewrite history.';
END
$function$;

CREATE OR REPLACE TRIGGER append_only
BEFORE UPDATE OR DELETE OR TRUNCATE ON @schema@.activity
FOR EACH STATEMENT EXECUTE FUNCTION @schema@.refuse();
ALTER TABLE @schema@.activity ENABLE ALWAYS TRIGGER append_only;

CREATE OR REPLACE TRIGGER append_only
BEFORE UPDATE OR DELETE OR TRUNCATE ON @schema@.transaction
FOR EACH STATEMENT EXECUTE FUNCTION @schema@.refuse();
ALTER TABLE @schema@.transaction ENABLE ALWAYS TRIGGER append_only;
