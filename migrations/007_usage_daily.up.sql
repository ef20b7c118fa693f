-- version: 4.0.0
-- lock_timeout: 100ms
--
-- The roll-up: totals per pair and UTC day. They explain every counter of user_agents.

-- A rollback from 4.0.0 kept the rows under another name.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_daily_kept_4_0_0 RENAME TO usage_daily;
CREATE TABLE IF NOT EXISTS public.usage_daily (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    day date NOT NULL,
    usage_count bigint NOT NULL DEFAULT 0,
    message_count bigint NOT NULL DEFAULT 0,
    conversation_count bigint NOT NULL DEFAULT 0,
    success_count bigint NOT NULL DEFAULT 0,
    error_count bigint NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    total_tokens_used bigint NOT NULL DEFAULT 0,
    total_cost_usd numeric(20, 10) NOT NULL DEFAULT 0,
    response_time_total_ms bigint NOT NULL DEFAULT 0,
    response_time_samples bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, agent_id, day)
) WITH (
    fillfactor = 70,
    -- By the defaults of 10 and 20 percent, a table of years would wait weeks for statistics about its newest days, which
    -- alone are read and updated.
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_limit = 2000
);
-- Finds the last days among years of them. The rows of one day are stored together, and BRIN hardly slows an insert.
-- squawk-ignore require-concurrent-index-creation -- the table is empty
CREATE INDEX IF NOT EXISTS idx_usage_daily_day ON public.usage_daily USING brin (day) WITH (autosummarize = on);
ALTER TABLE public.usage_daily ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more than SELECT.
REVOKE ALL ON public.usage_daily FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_daily TO service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_daily_service_role ON public.usage_daily FOR SELECT TO service_role USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.usage_daily IS 'The roll-up: totals of each pair and UTC day, written by the workers and track_agent_usage(); day 1970-01-01 holds the opening balance: what rows had counted before 4.0.0, and differences that were accepted as unexplained.';
    COMMENT ON COLUMN public.usage_daily.user_id IS 'The user of the pair.';
    COMMENT ON COLUMN public.usage_daily.agent_id IS 'The agent of the pair.';
    COMMENT ON COLUMN public.usage_daily.day IS 'The UTC day of the events.';
    COMMENT ON COLUMN public.usage_daily.usage_count IS 'Number of uses.';
    COMMENT ON COLUMN public.usage_daily.message_count IS 'Number of messages.';
    COMMENT ON COLUMN public.usage_daily.conversation_count IS 'Number of conversations first seen on this day''s events; their sum is user_agents.conversation_count.';
    COMMENT ON COLUMN public.usage_daily.success_count IS 'Number of uses that succeeded.';
    COMMENT ON COLUMN public.usage_daily.error_count IS 'Number of uses that failed.';
    COMMENT ON COLUMN public.usage_daily.input_tokens IS 'Number of tokens sent to models.';
    COMMENT ON COLUMN public.usage_daily.output_tokens IS 'Number of tokens that models answered.';
    COMMENT ON COLUMN public.usage_daily.total_tokens_used IS 'Number of tokens that are counted.';
    COMMENT ON COLUMN public.usage_daily.total_cost_usd IS 'Cost in US dollars.';
    COMMENT ON COLUMN public.usage_daily.response_time_total_ms IS 'Sum of the reported response times in milliseconds.';
    COMMENT ON COLUMN public.usage_daily.response_time_samples IS 'Number of uses that reported a response time.';
    COMMENT ON INDEX public.usage_daily_pkey IS 'Finds the days of a pair.';
    COMMENT ON INDEX public.idx_usage_daily_day IS 'Finds the newest days of all pairs.';
    COMMENT ON POLICY usage_daily_service_role ON public.usage_daily IS 'A service_role without BYPASSRLS reads every day.';
END
$comments$;
