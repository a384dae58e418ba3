-- Recording that a part of the trail was taken out of it. Whoever reads the trail for others must not add
-- anything else to it: this function writes marks of the verb "export", and must be granted.

-- Returns the id of the mark. Called before the first row leaves, with the filter and the format; and again
-- at the end, with the id of the first mark in "export" and the number of rows that left.
CREATE OR REPLACE FUNCTION @schema@.record_export(
    format text, filter jsonb, row_count bigint DEFAULT NULL, outcome text DEFAULT NULL, export bigint DEFAULT NULL
)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF jsonb_typeof(filter) IS DISTINCT FROM 'object' OR octet_length(filter::text) > 100000
        OR format IS NULL OR octet_length(concat(format, outcome)) > 200
    THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'this is no export: the filter must be an object of at most 100000 bytes',
            HINT = 'Nothing was recorded.';
    END IF;
    RETURN m.id
    FROM @schema@.mark('export', jsonb_strip_nulls(jsonb_build_object(
        'format', format, 'filter', filter, 'rows', row_count, 'outcome', outcome, 'export', export
    ))) AS m;
END
$function$;
