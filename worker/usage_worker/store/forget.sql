-- The erasure of one user: short transactions, each of which may be repeated. Names of tables and columns come from the list
-- in `forget_places.py`, and from the catalogue where it says what exists.

-- name: forget_columns
-- The tables of the schema, and those that a rollback keeps aside, with their columns, and with those of which we may not
-- see every row: the application's may belong to another role.
SELECT n.nspname || '.' || c.relname AS name, array_agg(a.attname::text) AS columns,
       coalesce(array_agg(a.attname::text) FILTER (
           WHERE row_security_active(c.oid) OR NOT has_schema_privilege(n.oid, 'USAGE')
              OR NOT has_column_privilege(c.oid, a.attnum, 'SELECT')
       ), ARRAY[]::text[]) AS hidden
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE (n.nspname = 'public' OR (n.nspname, c.relname) = ('auth', 'users')) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
 GROUP BY 1 ORDER BY 1

-- name: forget_limits
-- A lock of others is waited for only shortly, and tried again. The limits of time are lifted by no_time_limits.
SET LOCAL lock_timeout = '1s';
SET LOCAL max_parallel_workers_per_gather = 0

-- name: forget_count
-- How many rows name the user in a column, by partition.
SELECT {oid}::oid::bigint, count(*) FROM {table} WHERE {column} = %(user)s GROUP BY 1

-- name: forget_count_array
-- How many rows name the user in an array, by partition.
SELECT {oid}::oid::bigint, count(*) FROM {table} WHERE %(user)s::uuid = ANY ({column}) GROUP BY 1

-- name: forget_count_text
-- How many rows name the user in JSON, by partition.
SELECT {oid}::oid::bigint, count(*) FROM {table} WHERE {column}::text LIKE '%%' || %(user)s::uuid || '%%' GROUP BY 1

-- name: forget_delete
-- Delete the rows of the user.
DELETE FROM {table} WHERE {column} = %(user)s

-- name: forget_unset
-- Rows of others stay, without the user.
UPDATE {table} SET {column} = NULL WHERE {column} = %(user)s

-- name: forget_unset_array
-- Rows of others stay, without the user.
UPDATE {table} SET {column} = array_remove({column}, %(user)s::uuid) WHERE %(user)s::uuid = ANY ({column})

-- name: forget_unset_shared_with
-- Like forget_unset_array, but rows of many owners are locked in key order, as by every write to user_agents.
UPDATE {table} SET shared_with = array_remove(shared_with, %(user)s::uuid)
 WHERE id = ANY (ARRAY(
        SELECT id FROM {table} WHERE %(user)s::uuid = ANY (shared_with) ORDER BY user_id, agent_id FOR NO KEY UPDATE))

-- name: forget_unset_text
-- Where JSON names the user stands null, or in a longer text a dash.
UPDATE {table}
   SET {column} = replace(
           replace({column}::text, '"' || %(user)s::uuid || '"', 'null'), (%(user)s::uuid)::text, '-')::jsonb
 WHERE {column}::text LIKE '%%' || %(user)s::uuid || '%%'

-- name: forget_check_constraints
-- A deferred constraint of the application's must fail here, not at COMMIT.
SET CONSTRAINTS ALL IMMEDIATE

-- name: forget_lock_runs
-- A run may be recorded that was seen by nobody yet, with a user whose pairs it still saw (forget_gone_users).
LOCK TABLE public.usage_task_runs IN SHARE ROW EXCLUSIVE MODE

-- name: forget_lock_pairs
-- In key order, like every write to user_agents.
SELECT FROM public.user_agents WHERE user_id = %(user)s ORDER BY user_id, agent_id FOR UPDATE

-- name: forget_conversation_ids
-- The application's own ids of conversations that only this user has; before the conversations go.
DELETE FROM public.usage_external_ids e
 WHERE e.kind = 'conversation'
   AND e.id IN (SELECT conversation_id FROM public.user_agent_conversations WHERE user_id = %(user)s)
   AND NOT EXISTS (SELECT FROM public.user_agent_conversations c
                    WHERE c.conversation_id = e.id AND c.user_id <> %(user)s)

-- name: forget_user_id
-- The application's own id of the user, which until now leads to what names it.
DELETE FROM public.usage_external_ids WHERE kind = 'user' AND id = %(user)s

-- name: forget_day
-- The events of one day, in one statement with everything that depends on them, so that the totals of the day and its events
-- always agree. The ledger has no index by user: its partition is read once. Ids of conversations of pairs that were deleted
-- before are left to delete_ownerless_ids, which reads all conversations once, not for each day.
WITH gone AS (
    DELETE FROM public.{partition} WHERE user_id = %(user)s
    RETURNING event_id, occurred_at, recorded_at
), retired AS (
    DELETE FROM public.usage_retired_daily WHERE user_id = %(user)s AND day = %(day)s
), keys AS (
    DELETE FROM public.usage_event_keys k USING gone WHERE (k.key, k.occurred_at) = (gone.event_id, gone.occurred_at)
), marks AS (
    INSERT INTO public.agent_usage_hour_marks (hour) SELECT DISTINCT date_trunc('hour', occurred_at, 'UTC') FROM gone
), intake AS (
    -- Moved from the applied to the quarantined ones of their day, in a row of its own: the ledger has no streams.
    INSERT INTO public.usage_intake AS i (day, stream, applied, quarantined)
    SELECT (recorded_at AT TIME ZONE 'UTC')::date, 'erased', -count(*), count(*)
      FROM gone WHERE occurred_at <> recorded_at GROUP BY 1
    ON CONFLICT (day, stream) DO UPDATE
       SET applied = i.applied + excluded.applied, quarantined = i.quarantined + excluded.quarantined, booked_at = now()
)
SELECT count(*) FROM gone

-- name: graph_forget
-- The user as one who has no agents any more, in the form of graph_touched.
CREATE TEMPORARY TABLE graph_touched ON COMMIT DROP AS
SELECT user_id, agent_ids AS agents_before, NULL::uuid[] AS agents_after
  FROM public.agent_graph_members WHERE user_id = %(user)s

-- name: forget_letters
-- The sizes of a page of dead letters that may name the user: with the digits of the UUID in any notation, with letters and digits of
-- the application's own id, escaped, or packed.
SELECT id, octet_length(payload) AS bytes
  FROM {table}
 WHERE id > %(after)s
   AND (replace(lower(reason || payload), '-', '') LIKE ANY (%(patterns)s::text[])
        OR payload LIKE ANY (ARRAY['%%"zlib:%%', '%%"base64:%%', '%%"cut:%%'])
        OR strpos(payload, '\u') > 0
        OR strpos(payload, 'user_id') > 0 AND strpos(payload, %(text)s) > 0)
 ORDER BY id LIMIT %(rows)s

-- name: forget_read_letters
-- Dead letters as they are now.
SELECT id, entry_key, position, stream, entry_id, events, reason, payload
  FROM {table} WHERE id = ANY (%(ids)s::bigint[]) ORDER BY id

-- name: forget_lock_letters
-- Dead letters as they are until the end of the transaction.
SELECT id, entry_key, position, stream, entry_id, events, reason, payload
  FROM {table} WHERE id = ANY (%(ids)s::bigint[]) ORDER BY id FOR UPDATE

-- name: forget_delete_letters
-- Delete dead letters.
DELETE FROM {table} WHERE id = ANY (%(ids)s::bigint[])

-- name: forget_in_letter
-- What is left of a dead letter without the user.
UPDATE {table} SET position = %(position)s, events = %(events)s, payload = %(payload)s WHERE id = %(id)s

-- name: forget_users
-- Every id in a column of users.
SELECT DISTINCT {column} AS id FROM {table} WHERE {column} IS NOT NULL

-- name: forget_users_array
-- Every id in an array of users.
SELECT DISTINCT unnest({column}) AS id FROM {table}

-- name: forget_users_text
-- Every UUID in JSON.
SELECT DISTINCT (regexp_matches({column}::text, '[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}', 'g'))[1]::uuid AS id
  FROM {table}
