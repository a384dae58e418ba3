-- What a plan has to know of a table: its columns, its unique indexes, and the foreign keys from it and
-- to it. Every name is qualified: it runs under the search_path of the application, by which its names
-- of tables and types are meant.
SELECT
    r.ordinal,
    CAST(pg_catalog.json_build_object(
        'relation', pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(c.relname)),
        'columns', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'name', a.attname,
                'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
                'required', a.attnotnull OR t.typnotnull,
                'default', a.atthasdef AND a.attgenerated = '' OR a.attidentity <> '' OR t.typdefault IS NOT NULL,
                'generated', a.attgenerated <> '',
                'always', a.attidentity = 'a',
                'json', CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END IN (114, 3802)
            ) ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute AS a
            JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ),
        'uniques', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'schema', n.nspname,
                'name', CAST(CAST(i.indexrelid AS pg_catalog.regclass) AS pg_catalog.text),
                'constraint', (
                    SELECT k.conname FROM pg_catalog.pg_constraint AS k
                    WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u') AND k.condeferrable
                ),
                'primary', i.indisprimary,
                'nulls_equal', i.indnullsnotdistinct,
                'columns', (
                    SELECT pg_catalog.json_agg(a.attname ORDER BY p.position)
                    FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS p (attnum, position)
                    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = p.attnum
                    WHERE p.position <= i.indnkeyatts
                )
            ) ORDER BY i.indisprimary DESC, i.indexrelid)
            FROM pg_catalog.pg_index AS i
            WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid
        ),
        'foreign_keys', (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'schema', cn.nspname,
                'name', k.conname,
                'deferrable', k.condeferrable,
                'deferred', k.condeferred,
                'full', k.confmatchtype = 'f',
                'on_delete', k.confdeltype,
                'on_update', k.confupdtype,
                'child', pg_catalog.concat(pg_catalog.quote_ident(cn.nspname), '.', pg_catalog.quote_ident(ch.relname)),
                'child_name', pg_catalog.json_build_array(cn.nspname, ch.relname),
                'parent', pg_catalog.concat(pg_catalog.quote_ident(pn.nspname), '.', pg_catalog.quote_ident(pa.relname)),
                'child_columns', (
                    SELECT pg_catalog.json_agg(a.attname ORDER BY p.position)
                    FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS p (attnum, position)
                    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = p.attnum
                ),
                'parent_columns', (
                    SELECT pg_catalog.json_agg(a.attname ORDER BY p.position)
                    FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS p (attnum, position)
                    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = p.attnum
                ),
                'child_types', (
                    SELECT pg_catalog.json_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY p.position)
                    FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS p (attnum, position)
                    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = p.attnum
                ),
                'parent_types', (
                    SELECT pg_catalog.json_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY p.position)
                    FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS p (attnum, position)
                    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = p.attnum
                ),
                'nullable', (
                    SELECT pg_catalog.json_agg(NOT (a.attnotnull OR t.typnotnull) ORDER BY p.position)
                    FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS p (attnum, position)
                    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = p.attnum
                    JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
                ),
                'child_key', coalesce((
                    SELECT pg_catalog.json_agg(a.attname ORDER BY p.position)
                    FROM pg_catalog.pg_index AS i
                    CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS p (attnum, position)
                    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = p.attnum
                    WHERE i.indrelid = k.conrelid AND i.indisprimary
                ), '[]')
            ) ORDER BY cn.nspname, ch.relname, k.conname)
            FROM pg_catalog.pg_constraint AS k
            JOIN pg_catalog.pg_class AS ch ON ch.oid = k.conrelid
            JOIN pg_catalog.pg_namespace AS cn ON cn.oid = ch.relnamespace
            JOIN pg_catalog.pg_class AS pa ON pa.oid = k.confrelid
            JOIN pg_catalog.pg_namespace AS pn ON pn.oid = pa.relnamespace
            -- Those of partitions follow from their parents'.
            WHERE k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid) AND k.conparentid = 0
        )
    ) AS pg_catalog.text) AS shape
FROM pg_catalog.unnest(CAST(:names AS pg_catalog.text[])) WITH ORDINALITY AS r (name, ordinal)
JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass(r.name)
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
