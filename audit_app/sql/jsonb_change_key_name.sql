-- The document with one key renamed; every other document, {} and NULL included, unchanged.
CREATE OR REPLACE FUNCTION @schema@.jsonb_change_key_name(data jsonb, old_key text, new_key text)
RETURNS jsonb
LANGUAGE sql
IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT CASE
        -- An array or a string may "have" the key, too, and is no document with keys.
        WHEN pg_catalog.jsonb_typeof(data) OPERATOR(pg_catalog.=) 'object'
            AND data OPERATOR(pg_catalog.?) old_key
            AND old_key OPERATOR(pg_catalog.<>) new_key
        THEN
            (data OPERATOR(pg_catalog.-) old_key)
            OPERATOR(pg_catalog.||)
            pg_catalog.jsonb_build_object(new_key, data OPERATOR(pg_catalog.->) old_key)
        ELSE data
    END
$function$;
