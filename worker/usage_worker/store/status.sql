-- Queries of status, report and metrics.

-- name: intake_totals
-- accepted = applied + duplicate + quarantined. An erasure moves what it deletes from the applied to the quarantined ones, in
-- a row of its own; without that row these are what became of the events when they arrived, and never fall.
SELECT coalesce(sum(accepted), 0)::bigint AS accepted, coalesce(sum(applied), 0)::bigint AS applied,
       coalesce(sum(duplicate), 0)::bigint AS duplicate, coalesce(sum(quarantined), 0)::bigint AS quarantined
  FROM public.usage_intake
 WHERE stream <> 'erased' OR NOT %(as_arrived)s

-- name: give_up_soon
-- Whoever holds a lock on a table must not stop the status.
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = '5s'

-- name: give_up_report
-- A report of many days takes longer than figures of the status; it must end while the reader still waits.
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = '20s'

-- name: server_state
-- Whether a flush could write here, and the server's clock.
SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only')::boolean AS read_only,
       extract(epoch FROM clock_timestamp())::float8 AS clock

-- name: data_age
-- How many seconds a standby is behind: 0 where it has replayed all that it receives, else the age of the last transaction
-- that it has replayed, which on an idle primary is more than that; where it has replayed none since it was started, the
-- age of the checkpoint from which it began. NULL for a primary.
SELECT CASE WHEN NOT pg_is_in_recovery() THEN NULL
            WHEN EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver)
                 AND pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE extract(epoch FROM clock_timestamp() - coalesce(
                pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint())
            )) END::float8 AS seconds

-- name: blocking_sessions
-- The transactions that hold what a flush waits for, or a lock on our tables that no flush gets past, for five seconds
-- or more; with `rows` also those that have written to them, since a flush passes over rows that it cannot lock. Our own
-- end by themselves. What this role may not see of a session is NULL. A prepared transaction has no
-- session, but a name.
WITH blocking AS (
    SELECT blocker.pid, NULL AS holder, (
               SELECT relation FROM pg_catalog.pg_locks
                WHERE pid = waiting.pid AND locktype IN ('relation', 'tuple')
                ORDER BY granted, locktype DESC
                LIMIT 1
           ) AS relation
      FROM pg_catalog.pg_stat_activity waiting, unnest(pg_blocking_pids(waiting.pid)) AS blocker (pid)
     WHERE waiting.datname = current_database() AND waiting.application_name = 'usage-worker'
       -- Not what detaches a partition or builds an index: it waits for whole transactions, and no flush waits for it.
       AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_locks l
                WHERE l.pid = waiting.pid AND l.locktype = 'virtualxid' AND NOT l.granted
           )
     UNION ALL
    SELECT pid, virtualtransaction, relation
      FROM pg_catalog.pg_locks
     WHERE granted
       AND (mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            OR %(rows)s::boolean AND mode IN ('RowShareLock', 'RowExclusiveLock'))
       AND relation IN (
               to_regclass('public.user_agents'), to_regclass('public.usage_daily'),
               to_regclass('public.usage_events'), to_regclass('public.usage_entries'),
               to_regclass('public.usage_intake'), to_regclass('public.usage_dead_letters'),
               to_regclass('public.user_agent_conversations'), to_regclass('public.agents'),
               -- Not by name, since this role may not use the schema.
               (SELECT oid FROM pg_catalog.pg_class
                 WHERE relname = 'users' AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'auth'))
           )
       AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
)
(SELECT DISTINCT ON (holder.pid) holder.pid, NULL AS gid, holder.usename::text AS role, holder.application_name AS application,
       holder.state, coalesce(relation::regclass::text, 'rows') AS relation,
       extract(epoch FROM clock_timestamp() - holder.xact_start)::float8 AS seconds
  FROM blocking
  JOIN pg_catalog.pg_stat_activity holder USING (pid)
 WHERE holder.application_name <> 'usage-worker'
   AND coalesce(holder.xact_start < clock_timestamp() - interval '5 seconds', true)
 ORDER BY holder.pid)
UNION ALL
(SELECT DISTINCT ON (gid) NULL, gid, owner::text, NULL, 'prepared', blocking.relation::regclass::text,
       extract(epoch FROM clock_timestamp() - prepared)::float8
  FROM blocking
  JOIN pg_catalog.pg_locks own ON own.virtualtransaction = holder AND own.locktype = 'transactionid' AND own.granted
  JOIN pg_catalog.pg_prepared_xacts ON transaction = own.transactionid
 WHERE blocking.pid IS NULL AND prepared < clock_timestamp() - interval '5 seconds'
 ORDER BY gid)

-- name: commonest_reason
-- The most common reason among the newest dead letters that are not replayed: 90 days of them may be millions of rows. Before
-- 4.1.0 a reason could be long, so only its beginning is read.
SELECT left(reason, 500) AS reason, sum(events)::bigint AS events, sum(sum(events)) OVER ()::bigint AS total
  FROM (
      SELECT reason, events, replayed_at FROM public.usage_dead_letters ORDER BY id DESC LIMIT %(newest)s
  ) AS newest
 WHERE replayed_at IS NULL
 GROUP BY 1
 ORDER BY 2 DESC, 1
 LIMIT 1
