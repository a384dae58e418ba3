-- Take a column of the trail away again, unless something was recorded in it.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM @schema@.@table@ AS t WHERE t.@column@ IS NOT NULL) THEN
        ALTER TABLE @schema@.@table@ DROP COLUMN @column@;
    END IF;
END
$do$;
