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
COMMENT ON COLUMN public.usage_intake.booked_at IS 'when the last batch of the day and stream was counted, just before its commit';
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
