-- version: 4.0.0
-- lock_timeout: 100ms
--
-- The stream entries that were counted, and the intake totals of each day and stream. Workers count as soon as
-- usage_entries exists; events are counted while the next migration works through older rows.

-- A rollback from 4.0.0 kept the rows under another name.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_intake_kept_4_0_0 RENAME TO usage_intake;
CREATE TABLE IF NOT EXISTS public.usage_intake (
    day date NOT NULL,
    stream text NOT NULL,
    accepted bigint NOT NULL DEFAULT 0,
    applied bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0,
    booked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (day, stream),
    CONSTRAINT usage_intake_adds_up CHECK (accepted = applied + duplicate + quarantined)
) WITH (fillfactor = 50);
ALTER TABLE public.usage_intake ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more than SELECT.
REVOKE ALL ON public.usage_intake FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_intake TO service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_intake_service_role ON public.usage_intake FOR SELECT TO service_role USING (true);

-- A rollback from 4.0.0 kept the rows under another name.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_entries_kept_4_0_0 RENAME TO usage_entries;
-- Every stream entry that was counted. It never decides whether an event is counted (the ledger does). It tells a
-- redelivered entry from a new one, so that the intake totals add up however often an entry is delivered.
CREATE TABLE IF NOT EXISTS public.usage_entries (
    key uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
) WITH (
    -- The oldest entries are deleted by the hour; by the default of 20 percent their room would be reused a week later.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_limit = 2000
);
-- Finds the oldest entries for deletion. All entries of a batch have the same time, so the index is small; BRIN would
-- cost an insert as much (measured: 1 microsecond per entry) and lose its order with the first reused page.
-- squawk-ignore require-concurrent-index-creation -- the table is empty
CREATE INDEX IF NOT EXISTS idx_usage_entries_seen_at ON public.usage_entries (seen_at);
ALTER TABLE public.usage_entries ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more than SELECT.
REVOKE ALL ON public.usage_entries FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_entries TO service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_entries_service_role ON public.usage_entries FOR SELECT TO service_role USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.usage_intake IS 'What became of the accepted events of each UTC day and stream; written by the workers in the transaction of the batch.';
    COMMENT ON COLUMN public.usage_intake.day IS 'The UTC day on which they were counted.';
    COMMENT ON COLUMN public.usage_intake.stream IS 'Name of the Redis stream.';
    COMMENT ON COLUMN public.usage_intake.accepted IS 'Number of events that were read for the first time.';
    COMMENT ON COLUMN public.usage_intake.applied IS 'Number of events that were counted.';
    COMMENT ON COLUMN public.usage_intake.duplicate IS 'Number of events that the ledger had already.';
    COMMENT ON COLUMN public.usage_intake.quarantined IS 'Number of events in dead letters.';
    COMMENT ON COLUMN public.usage_intake.booked_at IS 'When the last batch of the day and stream was counted, just before its commit.';
    COMMENT ON INDEX public.usage_intake_pkey IS 'Finds the totals of a day and stream.';
    COMMENT ON POLICY usage_intake_service_role ON public.usage_intake IS 'A service_role without BYPASSRLS reads every total.';
    COMMENT ON TABLE public.usage_entries IS 'The stream entries that were counted, which tells a delivery from a redelivery; written by the workers, deleted with the ledger''s days.';
    COMMENT ON COLUMN public.usage_entries.key IS 'Key of the entry, the same at each delivery.';
    COMMENT ON COLUMN public.usage_entries.seen_at IS 'When the entry was first counted.';
    COMMENT ON INDEX public.usage_entries_pkey IS 'Finds whether an entry was counted.';
    COMMENT ON INDEX public.idx_usage_entries_seen_at IS 'Finds the oldest entries, which the task deletes.';
    COMMENT ON POLICY usage_entries_service_role ON public.usage_entries IS 'A service_role without BYPASSRLS reads every entry.';
END
$comments$;
