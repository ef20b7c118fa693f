-- The role of Grafana's data source: it reads what the board `usage` needs, and nothing that people write. Run this after
-- `usage-worker migrate up`, as a superuser or as an owner of the tables who has BYPASSRLS and may create roles; then give
-- the role a password. It can be run again.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usage_boards') THEN
        -- Row-level security shows these tables to the service role alone, which may also write them; this role has no
        -- grant but those below, and so needs no policy.
        CREATE ROLE usage_boards LOGIN BYPASSRLS CONNECTION LIMIT 8;
    END IF;
END
$$;
-- A board of a year should not hold the server, or a snapshot, for minutes.
ALTER ROLE usage_boards SET statement_timeout = '30s';
ALTER ROLE usage_boards SET default_transaction_read_only = on;

-- Of an event neither its id nor its conversation.
GRANT SELECT (occurred_at, type, user_id, agent_id, model, provider, messages, success, input_tokens, output_tokens,
    cached_input_tokens, cache_write_tokens, reasoning_tokens, tokens, cost_usd, response_time_ms)
    ON public.usage_events TO usage_boards;
GRANT SELECT ON public.usage_daily, public.usage_retired_daily, public.agent_usage_hourly,
    public.agent_usage_daily, public.agent_usage_hour_marks, public.agent_anomalies TO usage_boards;
GRANT SELECT (id, name) ON public.agents TO usage_boards;
GRANT EXECUTE ON FUNCTION public.usage_summary(timestamptz, timestamptz, text, text[], uuid, uuid),
    public.usage_latency_bucket(integer), public.usage_latency_value(smallint) TO usage_boards;
