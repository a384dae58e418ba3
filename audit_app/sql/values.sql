-- How values enter the trail where to_jsonb alone would fail or lose something. None of these
-- needs a search_path: every name in them is qualified, and they run as whoever calls them.

-- What is stored in place of a value that is too large for a jsonb document (256 MB in all).
CREATE OR REPLACE FUNCTION @schema@.large_value(value bytea, beginning text)
RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN pg_catalog.jsonb_build_object(
        '$audit', 'too large',
        'bytes', pg_catalog.octet_length(value),
        'sha256', pg_catalog.encode(pg_catalog.sha256(value), 'hex'),
        'beginning', beginning
    );
END
$function$;

CREATE OR REPLACE FUNCTION @schema@.large_text(value text)
RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN @schema@.large_value(pg_catalog.convert_to(value, 'UTF8'), pg_catalog.left(value, 1000));
END
$function$;

CREATE OR REPLACE FUNCTION @schema@.large_bytes(value bytea)
RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN @schema@.large_value(value, pg_catalog.encode(pg_catalog.substring(value, 1, 500), 'hex'));
END
$function$;

-- {name: mark} of a value that has more bytes than this, else {}.
CREATE OR REPLACE FUNCTION @schema@.large_text_entry(name text, value text, byte_limit bigint)
RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    IF pg_catalog.octet_length(value) OPERATOR(pg_catalog.>) byte_limit THEN
        RETURN pg_catalog.jsonb_build_object(name, @schema@.large_text(value));
    END IF;
    RETURN '{}';
END
$function$;

-- The same of bytes, which are written in hexadecimal.
CREATE OR REPLACE FUNCTION @schema@.large_bytes_entry(name text, value bytea, byte_limit bigint)
RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    IF 2::bigint OPERATOR(pg_catalog.*) pg_catalog.octet_length(value) OPERATOR(pg_catalog.>) byte_limit THEN
        RETURN pg_catalog.jsonb_build_object(name, @schema@.large_bytes(value));
    END IF;
    RETURN '{}';
END
$function$;

-- {name: null} for each of these names that stands beside a true.
CREATE OR REPLACE FUNCTION @schema@.nulls(names text[], is_null boolean[])
RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN coalesce(
        (
            SELECT pg_catalog.jsonb_object_agg(n.name, NULL)
            FROM ROWS FROM (pg_catalog.unnest(names), pg_catalog.unnest(is_null)) AS n (name, is_null)
            WHERE n.is_null
        ),
        '{}'
    );
END
$function$;

-- A json value may hold what jsonb cannot (\u0000, a number of 200,000 digits), also deep inside of
-- an array or a composite type. Such a value is kept as its text.
CREATE OR REPLACE FUNCTION @schema@.jsonb_or_text(value anyelement)
RETURNS jsonb
LANGUAGE plpgsql
STABLE
AS $function$
BEGIN
    RETURN pg_catalog.to_jsonb(value);
EXCEPTION
    WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
        -- concat() knows no casts: one to text could be anybody's.
        RETURN pg_catalog.to_jsonb(pg_catalog.concat(value));
END
$function$;

-- A key that is longer than an index entry may be is stored by its beginning and its digest.
CREATE OR REPLACE FUNCTION @schema@.object_id(key text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    IF pg_catalog.octet_length(key) OPERATOR(pg_catalog.<=) 1000 THEN
        RETURN key;
    END IF;
    RETURN pg_catalog.concat(
        pg_catalog.left(key, 100),
        '… sha256=',
        pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(key, 'UTF8')), 'hex')
    );
END
$function$;
