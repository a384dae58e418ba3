-- What is wrong with the trail as a whole: its grants, and the triggers that keep it as it is.
CREATE OR REPLACE FUNCTION @schema@.check_trail()
RETURNS TABLE (code text, relation text, message text)
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    WITH object (kind, oid, name, owner, acl) AS (
        SELECT 'table', c.oid, c.oid::regclass::text, c.relowner, coalesce(c.relacl, acldefault('r', c.relowner))
        FROM pg_class AS c
        WHERE c.relnamespace = '@schema@'::regnamespace AND c.relkind IN ('r', 'p')
        UNION ALL
        SELECT 'function', p.oid, p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
        FROM pg_proc AS p
        WHERE p.pronamespace = '@schema@'::regnamespace
        UNION ALL
        SELECT 'schema', n.oid, n.nspname, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
        FROM pg_namespace AS n
        WHERE n.oid = '@schema@'::regnamespace
    )
    SELECT
        'grant', o.name,
        concat(a.privilege_type, ' is granted to ', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END)
    FROM object AS o
    CROSS JOIN LATERAL aclexplode(o.acl) AS a
    WHERE a.grantee <> o.owner
      AND (
          a.grantee = 0
          OR (o.kind = 'table' AND a.privilege_type <> 'SELECT')
          OR (o.kind = 'schema' AND a.privilege_type <> 'USAGE')
          -- Suspending may be granted; nothing else may.
          OR (o.kind = 'function' AND NOT o.oid IN (
              '@schema@.suspend(text)'::regprocedure, '@schema@.resume(bigint)'::regprocedure
          ))
      )
    UNION ALL
    SELECT 'append_only', concat(@schema_literal@, '.', t.name), 'can be rewritten: its trigger append_only is missing or off'
    FROM (VALUES ('activity'), ('transaction')) AS t (name)
    WHERE NOT EXISTS (
        SELECT
        FROM pg_trigger AS g
        JOIN pg_class AS c ON c.oid = g.tgrelid
        WHERE c.relnamespace = '@schema@'::regnamespace
          AND c.relname = t.name
          AND g.tgname = 'append_only'
          AND g.tgenabled = 'A'
          AND g.tgfoid = '@schema@.refuse()'::regprocedure
    )
$function$;
