-- Periodic tasks: their locks and their last runs.

-- name: owns_tables
-- Whether this role owns the tables and row-level security hides nothing from it; hidden rows look like missing ones.
SELECT bool_and(pg_has_role(c.relowner, 'USAGE') AND NOT row_security_active(c.oid)) AS owns_tables,
       current_user::text AS role
  FROM unnest(ARRAY[
           'public.user_agents', 'public.usage_events', 'public.usage_daily', 'public.usage_retired_daily',
           'public.user_agent_conversations'
       ]::regclass[]) AS named
  JOIN pg_catalog.pg_class c ON c.oid = named

-- name: has_table
-- Whether the schema is as new as a table: during an upgrade, new workers run on the previous one.
SELECT to_regclass('public.' || %(table)s) IS NOT NULL

-- name: try_task_lock
-- The first key distinguishes our locks from advisory locks of the application. Without triggers and foreign keys, which a
-- role may have switched off, a purge would leave the rows of the pair behind. Without limits of time, as below.
SELECT pg_try_advisory_xact_lock(1970370406, hashtext(%(task)s)), set_config('statement_timeout', '0', true),
       CASE WHEN current_setting('transaction_timeout', true) <> '0' THEN set_config('transaction_timeout', '0', true) END,
       CASE WHEN current_setting('session_replication_role') <> 'origin'
           THEN set_config('session_replication_role', 'origin', true) END

-- name: no_time_limits
-- For the rest of the transaction. The limits of statements and of transactions (PostgreSQL 17) are for those of clients: a
-- comparison or a roll-up that they end would be ended each time.
SELECT set_config('statement_timeout', '0', true),
       CASE WHEN current_setting('transaction_timeout', true) <> '0' THEN set_config('transaction_timeout', '0', true) END

-- name: only_lock_timeout
-- How long the next statements wait for a lock; a wait that makes others wait must end soon. One that delays nobody may take
-- longer than the administrator allows a statement or a transaction.
SELECT set_config('lock_timeout', %(lock_timeout)s, %(in_transaction)s), set_config('statement_timeout', '0', %(in_transaction)s),
       CASE WHEN current_setting('transaction_timeout', true) <> '0'
           THEN set_config('transaction_timeout', '0', %(in_transaction)s) END

-- name: short_lock_timeout
-- A purge or a repair locks the rows of its pairs one after the other. Whoever counts for these pairs waits for them, and
-- gives up after two seconds. So the wait for a row that somebody else holds ends sooner, and the step is tried again. A
-- lower limit of the administrator stays.
SELECT set_config('lock_timeout', (extract(epoch FROM least(
           interval '200 milliseconds', nullif(current_setting('lock_timeout')::interval, interval '0')
       )) * 1000)::integer::text, true)

-- name: record_run
-- One row for each task: its last run.
INSERT INTO public.usage_task_runs (task, finished_at, seconds, report)
VALUES (%(task)s, now(), %(seconds)s, %(report)s)
ON CONFLICT (task) DO UPDATE SET
    finished_at = excluded.finished_at, seconds = excluded.seconds, report = excluded.report

-- name: forget_gone_users
-- Take users out of the differences of a run that were erased since they were found: an erasure deletes their pairs and
-- days before it looks at the records of runs.
UPDATE public.usage_task_runs SET report = jsonb_set(report, '{differences}', (
    SELECT coalesce(jsonb_agg(difference ORDER BY place), '[]')
      FROM jsonb_array_elements(report -> 'differences') WITH ORDINALITY AS d (difference, place)
     WHERE difference ->> 'user_id' IS NULL
        OR EXISTS (SELECT FROM public.user_agents ua WHERE ua.user_id = (difference ->> 'user_id')::uuid)
        OR EXISTS (SELECT FROM public.usage_daily d WHERE d.user_id = (difference ->> 'user_id')::uuid)
))
 WHERE task = %(task)s AND report -> 'differences' <> '[]'

-- name: last_runs
-- The last run of every task.
SELECT task, finished_at, seconds, report FROM public.usage_task_runs ORDER BY task
