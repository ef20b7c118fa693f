-- version: 5.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file prefer-bigint-over-int -- an hour of one agent has fewer than two billion uses
--
-- Hours of agents, and of all agents together, in which cost, errors or latency were far above what the same hours of the
-- weeks before had, or nobody used what is used otherwise. Computed from agent_usage_hourly by a periodic task.

-- A rollback from 5.0.0 kept the rows: most cannot be computed again.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.agent_anomalies_kept_5_0_0 RENAME TO agent_anomalies;
CREATE TABLE IF NOT EXISTS public.agent_anomalies (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id uuid,
    kind text NOT NULL CHECK (kind IN ('cost', 'errors', 'latency', 'silence')),
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    observed numeric NOT NULL,
    expected numeric NOT NULL,
    scale double precision NOT NULL,
    z double precision NOT NULL,
    samples integer NOT NULL,
    baseline jsonb NOT NULL,
    is_alert boolean NOT NULL,
    -- The total of all agents, whose agent is NULL, has one row for each beginning, too.
    UNIQUE NULLS NOT DISTINCT (agent_id, kind, started_at)
);
-- squawk-ignore require-concurrent-index-creation -- the table is empty, or as small as the anomalies of 90 days
CREATE UNIQUE INDEX IF NOT EXISTS idx_agent_anomalies_open
    ON public.agent_anomalies (agent_id, kind) NULLS NOT DISTINCT WHERE ended_at IS NULL;
ALTER TABLE public.agent_anomalies ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more.
REVOKE ALL ON public.agent_anomalies FROM PUBLIC, anon, authenticated, service_role;
REVOKE ALL ON SEQUENCE public.agent_anomalies_id_seq FROM PUBLIC, anon, authenticated, service_role;
-- Not for users: the figures of an agent that one person uses are that person's.
GRANT SELECT ON public.agent_anomalies TO service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY agent_anomalies_service_role ON public.agent_anomalies FOR SELECT TO service_role USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.agent_anomalies IS 'Hours in which an agent, or all agents together, differed from the same hours of the weeks before; computed from agent_usage_hourly by the task analytics.anomalies, kept as long as those hours.';
    COMMENT ON COLUMN public.agent_anomalies.id IS 'Identifies the anomaly.';
    COMMENT ON COLUMN public.agent_anomalies.agent_id IS 'Agent that differed, which may be deleted; NULL: the total of all agents.';
    COMMENT ON COLUMN public.agent_anomalies.kind IS 'cost: far above the usual; errors: a failing share far above the usual; latency: a 95th percentile far above the usual; silence: no use where there usually are many.';
    COMMENT ON COLUMN public.agent_anomalies.started_at IS 'Start of the first such UTC hour.';
    COMMENT ON COLUMN public.agent_anomalies.ended_at IS 'End of the last such UTC hour; NULL: it goes on.';
    COMMENT ON COLUMN public.agent_anomalies.observed IS 'What the most unusual hour had: US dollars (cost), the share of uses that failed, 0 to 1 (errors), the 95th percentile of the response time in milliseconds (latency), or 0 uses (silence).';
    COMMENT ON COLUMN public.agent_anomalies.expected IS 'What it usually has, in the unit of observed; of a silence, the uses expected since it began.';
    COMMENT ON COLUMN public.agent_anomalies.scale IS 'Usual spread: of 2 √n, n in uses or costs of a use (cost, silence); of the share of failed or slow uses (errors, latency).';
    COMMENT ON COLUMN public.agent_anomalies.z IS 'Distance from the expected in units of the scale.';
    COMMENT ON COLUMN public.agent_anomalies.samples IS 'Number of earlier hours that were compared (cost, silence), or of the uses of the hour (errors, latency).';
    COMMENT ON COLUMN public.agent_anomalies.baseline IS 'The most unusual hour, and the figures that led to the judgement, as docs/anomalies.md names them.';
    COMMENT ON COLUMN public.agent_anomalies.is_alert IS 'Whether status and metrics name it while it goes on: the total, and the 20 agents that had cost most when it began.';
    COMMENT ON INDEX public.agent_anomalies_pkey IS 'Identifies an anomaly.';
    COMMENT ON INDEX public.agent_anomalies_agent_id_kind_started_at_key IS 'Finds the anomalies of an agent, and keeps a repeated run from adding them again.';
    COMMENT ON INDEX public.idx_agent_anomalies_open IS 'Finds what goes on; at most one of an agent and a kind does.';
    COMMENT ON POLICY agent_anomalies_service_role ON public.agent_anomalies IS 'A service_role without BYPASSRLS reads every anomaly.';
END
$comments$;
