-- Drop the functions that the ones just made replace: those of another name, and of the same name with
-- other arguments. The capture functions of the tables are audit_table()'s affair.
DO $do$
DECLARE
    _function regprocedure;
    _owner text;
BEGIN
    FOR _function IN
        SELECT p.oid
        FROM pg_catalog.pg_proc AS p
        JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
        WHERE n.nspname OPERATOR(pg_catalog.=) @schema_literal@::pg_catalog.name
          AND p.prorettype OPERATOR(pg_catalog.<>) 'pg_catalog.trigger'::pg_catalog.regtype::pg_catalog.oid
          AND (
              NOT p.proname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (@names@)
              OR EXISTS (
                  SELECT
                  FROM pg_catalog.pg_proc AS newer
                  WHERE newer.pronamespace OPERATOR(pg_catalog.=) p.pronamespace
                    AND newer.proname OPERATOR(pg_catalog.=) p.proname
                    AND newer.oid OPERATOR(pg_catalog.>) p.oid
              )
          )
    LOOP
        EXECUTE pg_catalog.concat('DROP FUNCTION ', _function);
    END LOOP;
    -- What was made anew belongs to whoever migrates; all of it is the trail's owner's.
    FOR _function, _owner IN
        SELECT p.oid, pg_catalog.quote_ident(o.rolname::pg_catalog.text)
        FROM pg_catalog.pg_proc AS p
        JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
        JOIN pg_catalog.pg_roles AS o ON o.oid OPERATOR(pg_catalog.=) n.nspowner
        WHERE n.nspname OPERATOR(pg_catalog.=) @schema_literal@::pg_catalog.name
          AND p.proowner OPERATOR(pg_catalog.<>) n.nspowner
    LOOP
        EXECUTE pg_catalog.concat('ALTER FUNCTION ', _function, ' OWNER TO ', _owner);
    END LOOP;
END
$do$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @schema@ FROM PUBLIC;
