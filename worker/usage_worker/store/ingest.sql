-- One transaction counts one batch: its statements, in the order in which they are called. What looks for former deliveries
-- is in deliveries.sql, what locks and inserts rows of user_agents in pairs.sql.

-- name: ready
-- Writes nothing and fails where ingest would: the schema is missing or too old, the session is read-only, or somebody
-- holds a whole table. Returns the time by the database's clock, in seconds, which no setting of the session changes.
WITH events AS (INSERT INTO public.usage_events (cost_source) SELECT NULL WHERE false),
     daily AS (INSERT INTO public.usage_daily (reasoning_tokens) SELECT NULL WHERE false),
     conversations AS (INSERT INTO public.user_agent_conversations (user_id) SELECT NULL WHERE false),
     dead_letters AS (INSERT INTO public.usage_dead_letters (entry_key) SELECT NULL WHERE false),
     intake AS (INSERT INTO public.usage_intake (stream) SELECT NULL WHERE false),
     counters AS (UPDATE public.user_agents SET updated_at = now() WHERE false),
     keys AS (INSERT INTO public.usage_event_keys (key) SELECT NULL WHERE false),
     entries AS (INSERT INTO public.usage_entries (key) SELECT NULL WHERE false),
     marks AS (INSERT INTO public.agent_usage_hour_marks (hour) SELECT NULL WHERE false)
SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds

-- name: clock
-- The time by the database's clock, in seconds.
SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds

-- name: begin
-- A batch is some ten thousand keys against a table of millions: a nested loop over the primary key is the right plan, and
-- it keeps the order in which rows are locked. Otherwise the planner may read the whole table, or lock in heap order.
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
-- JIT would compile the statements of each batch anew, which takes longer than they do.
SET LOCAL jit = off;
-- An application's deferred constraint or trigger must fail at the events that it refuses, not at COMMIT.
SET CONSTRAINTS ALL IMMEDIATE;
-- A worker that is stopped or disconnected inside its transaction would keep its row locks, and block every other
-- worker, for ever. And whoever holds the row of one pair must not stop all others: after two seconds the batch looks for
-- the held rows, or earlier, before a statement_timeout ends it. Limits that the administrator has set lower are kept. Without
-- triggers and foreign keys, which a role may have switched off, counters and ledger would drift apart.
SELECT lock_timeout_ms, set_config('lock_timeout', lock_timeout_ms::text, true),
       concat_ws(
           ', ',
           'statement_timeout is ' || nullif(current_setting('statement_timeout'), '0'),
           'transaction_timeout is ' || nullif(current_setting('transaction_timeout', true), '0')
       ) AS time_limits,
       CASE current_setting('idle_in_transaction_session_timeout') WHEN '0'
           THEN set_config('idle_in_transaction_session_timeout', '15s', true) END,
       -- The totals of a large batch are sorted and read three times: in memory, not in files.
       CASE WHEN pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('64MB')
           THEN set_config('work_mem', '64MB', true) END,
       CASE WHEN current_setting('session_replication_role') <> 'origin'
           THEN set_config('session_replication_role', 'origin', true) END
  FROM (SELECT greatest(extract(epoch FROM least(
                   interval '2 seconds',
                   nullif(current_setting('lock_timeout')::interval, interval '0'),
                   nullif(current_setting('statement_timeout')::interval, interval '0') / 2
               )) * 1000, 1)::integer AS lock_timeout_ms) limits

-- name: lock_holders
-- Who may hold what this transaction waited for: transactions that have written or locked here for longer than it waits.
-- Of other roles' sessions only members of pg_read_all_stats see state and age. A prepared transaction has no session. Our
-- own come last and are named, since a batch of another shard is always among them while a backlog is worked off.
SELECT l.pid, coalesce(a.application_name = 'usage-worker', false) AS is_ours, coalesce(a.usename, p.owner)::text AS role,
       coalesce(a.state, 'prepared as ' || quote_literal(p.gid)) AS state,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::integer AS seconds
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_catalog.pg_locks own
         ON l.pid IS NULL AND own.virtualtransaction = l.virtualtransaction AND own.locktype = 'transactionid' AND own.granted
  LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = own.transactionid
 WHERE l.locktype = 'relation' AND l.granted AND l.mode <> 'AccessShareLock'
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND (n.nspname = 'public' AND c.relname ~ '^(agents$|user_agents$|user_agent_|agent_usage_|usage_)'
        OR (n.nspname, c.relname) = ('auth', 'users'))
   AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND coalesce(a.xact_start < clock_timestamp() - current_setting('lock_timeout')::interval, true)
 GROUP BY l.pid, is_ours, a.usename, a.state, a.xact_start, p.gid, p.owner, p.prepared
 ORDER BY is_ours, a.xact_start, l.pid
 LIMIT 3

-- name: staging
-- The target of COPY for the totals of a batch: a row for each pair and day, and for each pair whose events span days one
-- without a day, for all of them. Temporary and emptied at commit.
CREATE TEMP TABLE IF NOT EXISTS batch_totals (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    day date,
    -- The row that has all totals of its pair, one for each pair. The times and the rating of other rows are NULL.
    is_pair boolean NOT NULL,
    usage_count integer NOT NULL,
    message_count bigint NOT NULL,
    success_count bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    total_tokens_used bigint NOT NULL,
    total_cost_usd numeric NOT NULL,
    response_time_total_ms bigint NOT NULL,
    response_time_samples bigint NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz,
    last_conversation_at timestamptz,
    rating numeric,
    rated_at timestamptz,
    -- In rows of pairs the newest is the first; each is in the row of the day on which the batch uses it first.
    conversations uuid[]
) ON COMMIT DELETE ROWS

-- name: limit_lock_waits
-- For the rest of the transaction.
SELECT set_config('lock_timeout', %(milliseconds)s, true)

-- name: limit_idleness
-- For the rest of the transaction; the limit that was there before.
WITH former AS MATERIALIZED (SELECT current_setting('idle_in_transaction_session_timeout') AS idle_limit)
SELECT idle_limit, set_config('idle_in_transaction_session_timeout', %(limit)s, true) FROM former

-- name: ensure_day
-- Create the ledger's partition of a day; only reads the catalogue when it exists.
SELECT public.usage_events_ensure_recent_day(%(day)s::date)

-- name: past_days
-- The given days before the acceptance window, which a backfill may name: whether the ledger has a partition, has dropped
-- it, or never had one. A day whose events were counted has totals; its events are duplicates that no primary key tells
-- from new ones any more. The totals go with their pairs; the roll-ups of agents stay. Not by to_regclass: it sees a
-- partition that another worker has created since, pg_inherits does not, and the day would count as dropped.
WITH past AS MATERIALIZED (
    SELECT day, oid AS partition
      FROM unnest(%(days)s::date[]) AS day LEFT JOIN pg_catalog.pg_class
        ON relnamespace = 'public'::regnamespace AND relname = 'usage_events_' || to_char(day, 'YYYYMMDD')
     WHERE day < (now() AT TIME ZONE 'UTC')::date - %(accept_days)s::integer
), not_rolled_up AS MATERIALIZED (
    SELECT day FROM past WHERE partition IS NULL
    EXCEPT
    SELECT unnest(public.usage_rolled_up_days(ARRAY(SELECT day FROM past WHERE partition IS NULL)))
), missing AS MATERIALIZED (
    -- One look for all days, by the BRIN index: a look for each, of which one row would do, reads the table from its start.
    SELECT day FROM not_rolled_up
    EXCEPT
    SELECT day FROM public.usage_daily WHERE day = ANY (ARRAY(SELECT day FROM not_rolled_up))
)
SELECT day::text, CASE
           WHEN EXISTS (SELECT FROM pg_catalog.pg_inherits
                         WHERE inhrelid = partition AND inhparent = 'public.usage_events'::regclass AND NOT inhdetachpending)
               THEN 'kept'
           WHEN day IN (SELECT day FROM missing) THEN 'missing'
           ELSE 'dropped'
       END AS state
  FROM past
 ORDER BY day

-- name: clear_totals
-- A part of a batch that is counted again must not find the totals of the attempt before.
TRUNCATE batch_totals

-- name: copy_totals
-- Columns in the order of batch_totals.
COPY batch_totals FROM STDIN (FORMAT binary)

-- name: full_counters
-- Staged pairs of which a counter would exceed the type of its column: the first such counter, and its greatest value.
SELECT t.user_id, t.agent_id, exceeded.counter, exceeded.most
  FROM (SELECT *, usage_count - success_count AS error_count, cardinality(conversations) AS conversation_count
          FROM batch_totals
         WHERE is_pair) t
  JOIN public.user_agents ua ON ua.user_id = t.user_id AND ua.agent_id = t.agent_id
 CROSS JOIN LATERAL (
    SELECT counter, most::text
      FROM (VALUES
        -- The quality score adds the two.
        ('success_count', ua.success_count::numeric + coalesce(ua.error_count, 0) + t.usage_count, 'bigint'::regtype),
        ('{counters}', ua.{counters}::numeric + t.{counters}, pg_typeof(ua.{counters}))
      ) AS counters (counter, total, type)
     CROSS JOIN LATERAL (
        SELECT CASE type WHEN 'integer'::regtype THEN 2147483647 WHEN 'bigint'::regtype THEN 9223372036854775807
                         ELSE 9999999999.9999999999 END AS most
     ) bound
     WHERE total > most LIMIT 1
  ) AS exceeded

-- name: apply_totals
-- Add the staged totals of a range of users: those of days to the roll-up, those of pairs to the counters, everything in
-- key order, so that concurrent batches queue up instead of deadlocking. A pair is updated once, also where its events
-- span days: two updates of a row in one transaction fire its foreign-key triggers (28 microseconds). The newest rating
-- and conversation win by the event's time, at equal times by the greater value. updated_at is set here, so that its
-- trigger is not called.
--
-- Executed for one range after the other, in key order: the snapshot of a long statement keeps row versions that other
-- shards' batches replaced meanwhile, and the next updates of these rows leave their full pages (15 to 25 percent did).
--
-- All rows of a pair are in one range and have one snapshot: a pair that is deleted after its known conversations were
-- read is not updated, which the caller sees by the row count; a conversation that another batch inserted after that
-- fails the insert.
WITH totals AS MATERIALIZED (
    SELECT o.*, usage_count - success_count AS error_count, cardinality(opened) AS conversation_count
      FROM (
        SELECT t.*,
               ARRAY(SELECT named.id FROM (SELECT unnest(t.conversations) AS id) named
                      -- Scalar, so that the plan is one index look-up each.
                      WHERE (SELECT true FROM public.user_agent_conversations c
                              WHERE c.user_id = t.user_id AND c.agent_id = t.agent_id AND c.conversation_id = named.id
                            ) IS NULL) AS opened
          FROM (SELECT * FROM batch_totals
                 WHERE user_id BETWEEN %(first)s::uuid AND %(last)s::uuid
                 ORDER BY user_id, agent_id, day) t
        -- OFFSET: looked up once instead of wherever it is used.
        OFFSET 0
      ) o
), conversations AS (
    INSERT INTO public.user_agent_conversations (user_id, agent_id, conversation_id)
    SELECT user_id, agent_id, unnest(opened) FROM totals WHERE is_pair
), daily AS (
    INSERT INTO public.usage_daily AS d (user_id, agent_id, day,
        {daily}
    )
    SELECT user_id, agent_id, day,
           {daily}
      FROM totals
     WHERE day IS NOT NULL AND usage_count > 0
    ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
        {daily} = d.{daily} + excluded.{daily}
)
UPDATE public.user_agents ua SET
    updated_at = now(),
    {counters} = coalesce(ua.{counters}, 0) + t.{counters},
    avg_response_time_ms = round((coalesce(ua.response_time_total_ms, 0) + t.response_time_total_ms)::numeric
                                 / nullif(coalesce(ua.response_time_samples, 0) + t.response_time_samples, 0)),
    first_used_at = least(ua.first_used_at, t.first_used_at),
    last_used_at = greatest(ua.last_used_at, t.last_used_at),
    last_conversation_id = CASE
        WHEN ua.last_conversation_at IS NULL
          OR (t.last_conversation_at, t.conversations[1]) > (ua.last_conversation_at, ua.last_conversation_id)
        THEN coalesce(t.conversations[1], ua.last_conversation_id)
        ELSE ua.last_conversation_id END,
    last_conversation_at = greatest(ua.last_conversation_at, t.last_conversation_at),
    user_rating = CASE
        WHEN ua.last_rating_at IS NULL OR (t.rated_at, t.rating) > (ua.last_rating_at, ua.user_rating)
        THEN coalesce(t.rating, ua.user_rating)
        ELSE ua.user_rating END,
    last_rating_at = greatest(ua.last_rating_at, t.rated_at)
  FROM totals t
 WHERE t.is_pair AND ua.user_id = t.user_id AND ua.agent_id = t.agent_id

-- name: copy_ledger
-- The fastest way to insert; a duplicate that known_events did not find fails the whole COPY, and the batch starts
-- again.
COPY public.usage_events (
    {ledger}
) FROM STDIN (FORMAT binary)

-- name: ledger_takes_copy
-- PostgreSQL refuses COPY where row-level security applies to the role, whatever its policies say.
SELECT NOT row_security_active('public.usage_events')

-- name: stage_ledger
-- Where the ledger takes no COPY, events are copied here first. Temporary and emptied at commit. LIKE would need the
-- right to read all of the ledger.
CREATE TEMP TABLE IF NOT EXISTS batch_events (
    {ledger_types}
) ON COMMIT DELETE ROWS

-- name: clear_events
-- Likewise, the events of the part before.
TRUNCATE batch_events

-- name: copy_events
-- The same rows as for copy_ledger.
COPY batch_events FROM STDIN (FORMAT binary)

-- name: insert_ledger
-- Fails as a whole, like copy_ledger (measured: 7 microseconds an event more).
INSERT INTO public.usage_events (
    {ledger}
)
SELECT * FROM batch_events

-- name: insert_dead_letters
-- Once for each position of an entry, however often the entry is delivered. Returns the number of events inserted, by
-- reason.
WITH inserted AS (
    INSERT INTO public.usage_dead_letters (entry_key, position, stream, entry_id, events, reason, payload)
    SELECT * FROM unnest(%(entry_key)s::uuid[], %(position)s::integer[], %(stream)s::text[], %(entry_id)s::text[],
                         %(events)s::integer[], %(reason)s::text[], %(payload)s::text[])
    ON CONFLICT (entry_key, position) DO NOTHING
    RETURNING events, reason
)
SELECT reason, sum(events)::bigint FROM inserted GROUP BY reason

-- name: add_intake
-- Add a batch to the intake totals; a check constraint enforces that they add up. Last statement of the batch: workers
-- of one stream wait here for one another's commit.
INSERT INTO public.usage_intake AS i (day, stream, accepted, applied, duplicate, quarantined, booked_at)
VALUES ((now() AT TIME ZONE 'UTC')::date, %(stream)s, %(accepted)s, %(applied)s, %(duplicate)s, %(quarantined)s,
        clock_timestamp())
ON CONFLICT (day, stream) DO UPDATE SET
    accepted = i.accepted + excluded.accepted,
    applied = i.applied + excluded.applied,
    duplicate = i.duplicate + excluded.duplicate,
    quarantined = i.quarantined + excluded.quarantined,
    booked_at = clock_timestamp()
