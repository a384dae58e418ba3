-- The trail is only ever added to. The exceptions are the rewriting by evolve(), the pruning by prune_batch() and
-- its like, and the emptying of a default partition, each of which has left its own mark in the trail in this very
-- transaction; the setting only says where. Its owner can disable these triggers besides, and check() names that.
CREATE OR REPLACE FUNCTION @schema@.refuse()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $function$
DECLARE
    _mark text := coalesce(current_setting('audit_app.rewrite', true), '');
    _verb text := CASE
        WHEN TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'activity' THEN 'rewrite'
        WHEN TG_OP = 'DELETE' AND TG_TABLE_NAME IN ('activity', 'transaction') THEN 'prune'
        WHEN TG_OP = 'DELETE' AND TG_TABLE_NAME IN ('activity_default', 'transaction_default') THEN 'partition'
    END;
BEGIN
    IF _verb IS NOT NULL AND _mark ~ '^[0-9]{1,18}[(][0-9]{1,9},[0-9]{1,4}[)]$' THEN
        PERFORM
        FROM @schema@.activity AS a
        WHERE a.ctid = substr(_mark, strpos(_mark, '('))::tid
          AND a.id = split_part(_mark, '(', 1)::bigint
          AND a.verb = _verb
          AND a.native_transaction_id = pg_current_xact_id()
          -- Of a partitioned trail, only the partitions of the present and the future are looked into.
          AND a.issued_at >= transaction_timestamp();
        IF FOUND THEN
            -- What would be rewritten in the history now would stay as it is in the copies that replace it.
            IF _verb = 'rewrite' AND EXISTS (SELECT FROM @schema@.copies('activity')) THEN
                RAISE object_in_use USING
                    MESSAGE = 'the history is being split into partitions, and cannot be rewritten until that is done',
                    HINT = 'Nothing was changed. Finish it first: flask audit partition --split.';
            END IF;
            RETURN NULL;
        END IF;
    END IF;
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
