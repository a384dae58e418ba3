    SELECT CASE
        WHEN bool_or(p.part IS NULL) THEN NULL
        WHEN count(*) = 1 THEN min(p.part)
        WHEN count(*) > 1 THEN CAST(jsonb_agg(p.part ORDER BY p.n) AS text)
    END
    FROM (
        SELECT
            c.n,
            -- JSON has forms of its own for these; an identity is the text that a cast gives.
            CASE
                WHEN c.part ->> 'type' = 'timestamp without time zone' AND v.text ~ '^[0-9]{4,}-[0-9]{2}-[0-9]{2}T'
                    THEN CAST(CAST(v.text AS timestamp) AS text)
                WHEN c.part ->> 'type' = 'timestamp with time zone' AND v.text ~ '^[0-9]{4,}-[0-9]{2}-[0-9]{2}T'
                    THEN CAST(CAST(v.text AS timestamptz) AS text)
                WHEN c.part ->> 'type' = 'character' THEN rtrim(v.text, ' ')
                ELSE v.text
            END AS part
        FROM jsonb_array_elements(k.parts) WITH ORDINALITY AS c (part, n)
        LEFT JOIN LATERAL (
            SELECT @row@ ->> m.name
            FROM jsonb_array_elements_text(c.part -> 'names') WITH ORDINALITY AS m (name, n)
            WHERE @row@ ->> m.name IS NOT NULL
            ORDER BY m.n
            LIMIT 1
        ) AS v (text) ON true
    ) AS p
