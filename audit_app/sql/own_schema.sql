-- Refuse to install into a schema that somebody else has prepared: who owns the schema, or a table or a
-- function in it, could rewrite the trail at will.
DO $do$
DECLARE
    _schema record;
    _foreign text;
BEGIN
    SELECT n.oid, n.nspowner, o.rolcanlogin, o.rolname
    INTO _schema
    FROM pg_catalog.pg_namespace AS n
    JOIN pg_catalog.pg_roles AS o ON o.oid = n.nspowner
    WHERE n.nspname = @schema_literal@;
    -- Ours, or that of a role without login which we are a member of.
    IF _schema.rolname <> current_user
        AND (_schema.rolcanlogin OR NOT pg_catalog.pg_has_role(current_user, _schema.nspowner, 'MEMBER'))
    THEN
        RAISE duplicate_object USING
            MESSAGE = pg_catalog.concat('the schema ', @schema_literal@, ' belongs to the role ', _schema.rolname),
            HINT = 'Drop it, or ALTER SCHEMA … OWNER TO the role that installs; nothing was changed.';
    END IF;
    SELECT found.name INTO _foreign
    FROM (
        SELECT c.oid::pg_catalog.regclass::pg_catalog.text, c.relowner, c.relnamespace
        FROM pg_catalog.pg_class AS c
        UNION ALL
        SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text, p.proowner, p.pronamespace
        FROM pg_catalog.pg_proc AS p
    ) AS found (name, owner, namespace)
    JOIN pg_catalog.pg_roles AS o ON o.oid = found.owner
    WHERE found.namespace = _schema.oid AND found.owner <> _schema.nspowner AND o.rolname <> current_user
    LIMIT 1;
    IF FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = pg_catalog.concat(_foreign, ' belongs to somebody else than the schema ', @schema_literal@),
            HINT = 'Drop it, or give it to the owner of the schema; nothing was changed.';
    END IF;
END
$do$;
