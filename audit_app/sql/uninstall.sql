-- Take the functions and the triggers away. The trail itself goes only if nothing was ever recorded, or if
-- the session was told so: SET audit_app.drop_trail = 'on'. Nothing goes while tables are tracked still: those
-- of another tenant, or of another application.
DO $do$
DECLARE
    _function regprocedure;
    _is_empty boolean := false;
    _others text;
BEGIN
    SELECT pg_catalog.string_agg(DISTINCT t.tgrelid::pg_catalog.regclass::pg_catalog.text, ', ') INTO _others
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
    JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
    WHERE n.nspname OPERATOR(pg_catalog.=) @schema_literal@::pg_catalog.name
      AND pg_catalog.starts_with(p.proname::pg_catalog.text, 'capture_');
    IF _others IS NOT NULL THEN
        RAISE NOTICE USING
            MESSAGE = pg_catalog.concat('the trail in the schema ', @schema_literal@, ' was kept: it tracks ', _others),
            HINT = 'Stop to track them first: flask audit uninstall.';
        RETURN;
    END IF;
    IF pg_catalog.to_regclass(pg_catalog.concat(pg_catalog.quote_ident(@schema_literal@), '.activity')) IS NOT NULL THEN
        EXECUTE 'SELECT NOT EXISTS (SELECT FROM @schema@.activity)' INTO _is_empty;
    END IF;
    IF _is_empty OR pg_catalog.current_setting('audit_app.drop_trail', true) IN ('on', 'yes', 'true', '1') THEN
        DROP SCHEMA IF EXISTS @schema@ CASCADE;
        RETURN;
    END IF;
    FOR _function IN
        SELECT p.oid
        FROM pg_catalog.pg_proc AS p
        JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
        WHERE n.nspname OPERATOR(pg_catalog.=) @schema_literal@::pg_catalog.name
          -- What keeps the trail from being rewritten stays with it.
          AND p.proname OPERATOR(pg_catalog.<>) 'refuse'::pg_catalog.name
    LOOP
        EXECUTE pg_catalog.concat('DROP FUNCTION ', _function, ' CASCADE');
    END LOOP;
    COMMENT ON SCHEMA @schema@ IS NULL;
    RAISE NOTICE USING
        MESSAGE = pg_catalog.concat('the trail in the schema ', @schema_literal@, ' was kept'),
        HINT = 'To drop it, too: SET audit_app.drop_trail = ''on'', or PGOPTIONS="-c audit_app.drop_trail=on".';
END
$do$;
