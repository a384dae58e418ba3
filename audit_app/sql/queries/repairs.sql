-- The statements that put right what needs no decision: nobody's rights are everybody's, and the owner
-- of the schema owns what is in it.
WITH schema AS (
    SELECT n.oid, n.nspowner AS owner FROM pg_namespace AS n WHERE n.nspname = @schema_literal@
),
object (kind, name, owner, acl) AS (
    SELECT
        CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, CAST(CAST(c.oid AS regclass) AS text), c.relowner, c.relacl
    FROM pg_class AS c
    JOIN schema AS s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'S') AND (c.relname IN ('activity', 'transaction') OR c.relispartition OR c.relkind = 'S')
    UNION ALL
    SELECT 'FUNCTION', CAST(CAST(p.oid AS regprocedure) AS text), p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    FROM pg_proc AS p
    JOIN schema AS s ON s.oid = p.pronamespace
    WHERE p.prokind = 'f'
    UNION ALL
    SELECT 'SCHEMA', '@schema@', s.owner, n.nspacl
    FROM schema AS s
    JOIN pg_namespace AS n ON n.oid = s.oid
)
SELECT r.statement
FROM (
    SELECT
        1 AS step,
        concat('ALTER ', o.kind, ' ', o.name, ' OWNER TO ', quote_ident(pg_get_userbyid(s.owner))) AS statement
    FROM object AS o
    CROSS JOIN schema AS s
    -- An identity's sequence follows its table.
    WHERE o.owner <> s.owner AND o.kind IN ('TABLE', 'FUNCTION')
    UNION ALL
    SELECT 2, concat('REVOKE ALL ON ', o.kind, ' ', o.name, ' FROM PUBLIC')
    FROM object AS o
    WHERE EXISTS (SELECT FROM aclexplode(o.acl) AS a WHERE a.grantee = 0)
    UNION ALL
    SELECT 3, concat('REVOKE ALL (', quote_ident(a.attname), ') ON ', CAST(a.attrelid AS regclass), ' FROM PUBLIC')
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid
    JOIN schema AS s ON s.oid = c.relnamespace
    WHERE EXISTS (SELECT FROM aclexplode(a.attacl) AS g WHERE g.grantee = 0)
    UNION ALL
    SELECT DISTINCT 4, concat(
        'ALTER DEFAULT PRIVILEGES FOR ROLE ', quote_ident(pg_get_userbyid(d.defaclrole)), ' IN SCHEMA @schema@ REVOKE ALL ON ',
        CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' ELSE 'FUNCTIONS' END, ' FROM PUBLIC'
    )
    FROM pg_default_acl AS d
    JOIN schema AS s ON s.oid = d.defaclnamespace
    CROSS JOIN LATERAL aclexplode(d.defaclacl) AS a
    WHERE d.defaclobjtype IN ('r', 'S', 'f') AND a.grantee = 0
    UNION ALL
    SELECT DISTINCT 5, concat('REVOKE TRIGGER, REFERENCES ON ', CAST(t.tgrelid AS regclass), ' FROM PUBLIC')
    FROM pg_trigger AS t
    JOIN pg_proc AS p ON p.oid = t.tgfoid
    JOIN schema AS s ON s.oid = p.pronamespace
    JOIN pg_class AS c ON c.oid = t.tgrelid
    CROSS JOIN LATERAL (
        SELECT g.grantee, g.privilege_type FROM aclexplode(c.relacl) AS g
        UNION ALL
        SELECT g.grantee, g.privilege_type
        FROM pg_attribute AS a
        CROSS JOIN LATERAL aclexplode(a.attacl) AS g
        WHERE a.attrelid = c.oid
    ) AS a
    WHERE starts_with(p.proname, 'capture_') AND a.grantee = 0 AND a.privilege_type IN ('TRIGGER', 'REFERENCES')
) AS r
ORDER BY r.step, r.statement
