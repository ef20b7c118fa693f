-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
--
-- The role of the workers that count. It owns nothing and may do what the statements of ingest, status and report do.
-- Grants decide on tables, columns and commands; policies only open the rows. Members inherit both, so that a login
-- role needs no more than GRANT usage_ingest TO it. What it may not do itself, three functions do for it.
-- Each statement is short and can be repeated after a kill.

-- Roles belong to the whole cluster, so another database may be creating the same one at this moment.
DO $role$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'usage_ingest') THEN
        CREATE ROLE usage_ingest NOLOGIN;
        COMMENT ON ROLE usage_ingest IS 'created by usage-worker';
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;
    WHEN insufficient_privilege THEN
        RAISE undefined_object USING MESSAGE =
            format('role %s may not create roles; let an administrator run CREATE ROLE usage_ingest', current_user);
END
$role$;

-- Creates the ledger's partition of a day for ingest. A role that counts may create some hundred partitions at most; the
-- owner accepts events of any age. A data error, not a missing privilege: ingest refuses the event and goes on.
CREATE OR REPLACE FUNCTION public.usage_events_ensure_recent_day(p_recent_day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_caller pg_catalog.name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
    v_age pg_catalog.int4 := (now() AT TIME ZONE 'UTC')::date - p_recent_day;
BEGIN
    IF v_age NOT BETWEEN -2 AND 366 AND NOT pg_has_role(v_caller, current_user, 'USAGE') THEN
        RAISE datetime_field_overflow USING MESSAGE = format(
            'occurred_at: role %s counts the last 366 days only, not %s; the owner counts any', v_caller, p_recent_day);
    END IF;
    PERFORM public.usage_events_ensure_day(p_recent_day);
END $$;

-- Tells which users and agents exist, by the rights of the owner: a platform may have neither granted the tables nor
-- made a policy for us, and a hidden row must not look like a missing one.
CREATE OR REPLACE FUNCTION public.usage_find_parents(p_users uuid[], p_agents uuid[])
RETURNS TABLE (user_id uuid, agent_id uuid, user_exists boolean, agent_exists boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT pair.user_id, pair.agent_id,
           EXISTS (SELECT FROM auth.users AS u WHERE u.id = pair.user_id),
           EXISTS (SELECT FROM public.agents AS a WHERE a.id = pair.agent_id)
      FROM unnest(p_users, p_agents) AS pair (user_id, agent_id)
$$;

-- Inserts bare users and agents for USAGE_UNKNOWN=create; an agent gets its id as its name. usage_ingest may not call it:
-- an administrator grants it to the login roles of installations that want it.
CREATE OR REPLACE FUNCTION public.usage_create_parents(p_users uuid[], p_agents uuid[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO auth.users (id) SELECT unnest(p_users) ORDER BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO public.agents (id, name)
    SELECT id, id::text FROM unnest(p_agents) AS id ORDER BY 1 ON CONFLICT DO NOTHING;
$$;

-- One transaction: a worker that connects meanwhile has all of it or nothing.
DO $grants$
BEGIN
    REVOKE ALL ON FUNCTION public.usage_events_ensure_recent_day(date), public.usage_find_parents(uuid[], uuid[]),
        public.usage_create_parents(uuid[], uuid[]) FROM PUBLIC, anon, authenticated, service_role;
    GRANT EXECUTE ON FUNCTION public.usage_events_ensure_recent_day(date), public.usage_find_parents(uuid[], uuid[])
        TO usage_ingest;
    GRANT SELECT, INSERT ON public.usage_entries, public.user_agent_conversations TO usage_ingest;
    GRANT SELECT, INSERT, UPDATE ON public.usage_daily, public.usage_intake TO usage_ingest;
    GRANT SELECT (user_id, agent_id, usage_count, message_count, conversation_count, success_count, error_count,
                  user_rating, last_rating_at, total_tokens_used, total_cost_usd, response_time_total_ms,
                  response_time_samples, first_used_at, last_used_at, last_conversation_id, last_conversation_at),
        INSERT (user_id, agent_id),
        UPDATE (usage_count, message_count, conversation_count, success_count, error_count, user_rating,
                last_rating_at, avg_response_time_ms, total_tokens_used, total_cost_usd, response_time_total_ms,
                response_time_samples, first_used_at, last_used_at, last_conversation_id, last_conversation_at,
                updated_at)
        ON public.user_agents TO usage_ingest;
    -- Of the ledger what duplicates and `report` are found by; neither agents nor conversations nor models.
    GRANT INSERT, SELECT (event_id, occurred_at, type, user_id, messages, tokens, cost_usd, response_time_ms, success)
        ON public.usage_events TO usage_ingest;
    -- Of the quarantine the reasons, but not the payloads.
    GRANT INSERT (entry_key, position, stream, entry_id, events, reason, payload),
        SELECT (id, entry_key, position, events, reason, replayed_at)
        ON public.usage_dead_letters TO usage_ingest;
    GRANT SELECT ON public.usage_task_runs TO usage_ingest;
    -- There is no journal if psql runs the files without the runner.
    IF to_regclass('public.usage_migrations') IS NOT NULL THEN
        GRANT SELECT ON public.usage_migrations TO usage_ingest;
    END IF;
END
$grants$;

-- A policy locks its table for a moment, and a client that waits for one table must not wait for the next one, too: one
-- transaction for each. In the order of ingest's statements.
DO $policies$
DECLARE
    v_table text;
    v_command text;
BEGIN
    FOR v_table, v_command IN VALUES
        ('usage_entries', 'ALL'), ('user_agents', 'ALL'), ('user_agent_conversations', 'ALL'), ('usage_daily', 'ALL'),
        ('usage_events', 'ALL'), ('usage_dead_letters', 'ALL'), ('usage_intake', 'ALL'), ('usage_task_runs', 'SELECT'),
        ('usage_migrations', 'SELECT')
    LOOP
        CONTINUE WHEN to_regclass('public.' || v_table) IS NULL OR EXISTS (
            SELECT FROM pg_catalog.pg_policy
             WHERE polrelid = to_regclass('public.' || v_table) AND polname = v_table || '_ingest');
        EXECUTE format('CREATE POLICY %I ON public.%I FOR %s TO usage_ingest USING (true)',
                       v_table || '_ingest', v_table, v_command);
        COMMIT;
    END LOOP;
END
$policies$;

DO $comments$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'usage_entries', 'user_agents', 'user_agent_conversations', 'usage_daily', 'usage_events', 'usage_dead_letters',
        'usage_intake', 'usage_task_runs', 'usage_migrations'
    ] LOOP
        CONTINUE WHEN to_regclass('public.' || v_table) IS NULL;
        EXECUTE format('COMMENT ON POLICY %I ON public.%I IS %L', v_table || '_ingest', v_table,
                       'Workers that count see every row; grants limit what they do with it.');
    END LOOP;
    COMMENT ON FUNCTION public.usage_events_ensure_recent_day IS 'Creates the ledger''s partition of a UTC day for workers that count: one of the last 366 days, or today or the next two.';
    COMMENT ON FUNCTION public.usage_find_parents IS 'Returns for each pair whether its user and its agent exist.';
    COMMENT ON FUNCTION public.usage_create_parents IS 'Inserts bare users and agents for USAGE_UNKNOWN=create; an agent gets its id as its name.';
END
$comments$;
