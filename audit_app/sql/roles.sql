-- Nobody may call anything in here but the owner, and whom the owner grants it.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @schema@ FROM PUBLIC;

-- Give the trail to a role, which is made without login if it does not exist. Runs with the rights of
-- its caller, who becomes a member of that role.
CREATE OR REPLACE FUNCTION @schema@.hand_over(new_owner text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    _object text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = new_owner) THEN
        EXECUTE concat('CREATE ROLE ', quote_ident(new_owner), ' NOLOGIN');
    END IF;
    IF NOT pg_has_role(current_user, new_owner, 'MEMBER') THEN
        EXECUTE concat('GRANT ', quote_ident(new_owner), ' TO ', quote_ident(current_user));
    END IF;
    EXECUTE concat('ALTER SCHEMA @schema@ OWNER TO ', quote_ident(new_owner));
    FOR _object IN
        SELECT concat('TABLE ', c.oid::regclass)
        FROM pg_class AS c
        WHERE c.relnamespace = '@schema@'::regnamespace AND c.relkind IN ('r', 'p')
        UNION ALL
        SELECT concat('FUNCTION ', p.oid::regprocedure)
        FROM pg_proc AS p
        WHERE p.pronamespace = '@schema@'::regnamespace
    LOOP
        EXECUTE concat('ALTER ', _object, ' OWNER TO ', quote_ident(new_owner));
    END LOOP;
END
$function$;
REVOKE ALL ON FUNCTION @schema@.hand_over(text) FROM PUBLIC;
