-- How far this server is behind the one that it follows. An idle primary makes the newest
-- transaction old without any lag; but what a standby without a receiver does not know of is no
-- proof that there is nothing.
SELECT
    pg_catalog.pg_is_in_recovery() AS is_standby,
    w.is_receiving,
    CASE
        WHEN
            w.is_receiving
            AND pg_catalog.pg_last_wal_receive_lsn()
            OPERATOR(pg_catalog.=) pg_catalog.pg_last_wal_replay_lsn()
            THEN CAST(0 AS double precision)
        ELSE CAST(
            EXTRACT(
                EPOCH FROM pg_catalog.clock_timestamp()
                OPERATOR(pg_catalog.-) pg_catalog.pg_last_xact_replay_timestamp()
            ) AS double precision
        )
    END AS seconds
FROM (
    SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver) AS is_receiving
) AS w
