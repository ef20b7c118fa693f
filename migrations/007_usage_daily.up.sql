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
) WITH (fillfactor = 70);
-- Finds the last days among years of them. The rows of one day are stored together, and BRIN hardly slows an insert.
-- squawk-ignore require-concurrent-index-creation -- the table is empty
CREATE INDEX IF NOT EXISTS idx_usage_daily_day ON public.usage_daily USING brin (day) WITH (autosummarize = on);
COMMENT ON COLUMN public.usage_daily.conversation_count IS
    'conversations first seen on this day''s events; their sum is user_agents.conversation_count';
COMMENT ON TABLE public.usage_daily IS 'sums per UTC day; day 1970-01-01 holds the opening balance: what rows had counted before 4.0.0, and differences that were accepted as unexplained';
ALTER TABLE public.usage_daily ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more than SELECT.
REVOKE ALL ON public.usage_daily FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_daily TO service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_daily_service_role ON public.usage_daily FOR SELECT TO service_role USING (true);
