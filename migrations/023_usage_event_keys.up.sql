-- version: 4.1.0
-- lock_timeout: 100ms
--
-- The idempotency keys of events that came without a time of their own. Such an event's identity is its key and the time
-- of its first delivery, which stands here for the acceptance window.

-- A rollback from 4.1.0 kept the rows under another name.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_event_keys_kept_4_1_0 RENAME TO usage_event_keys;
CREATE TABLE IF NOT EXISTS public.usage_event_keys (
    key uuid PRIMARY KEY,
    occurred_at timestamptz NOT NULL
) WITH (
    -- As for usage_entries: the oldest keys are deleted by the hour.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_limit = 2000
);
-- Finds the oldest keys for deletion.
-- squawk-ignore require-concurrent-index-creation -- the table is empty
CREATE INDEX IF NOT EXISTS idx_usage_event_keys_occurred_at ON public.usage_event_keys (occurred_at);
ALTER TABLE public.usage_event_keys ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more.
REVOKE ALL ON public.usage_event_keys FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_event_keys TO service_role;
GRANT SELECT, INSERT ON public.usage_event_keys TO usage_ingest;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_event_keys_service_role ON public.usage_event_keys FOR SELECT TO service_role USING (true);
CREATE POLICY usage_event_keys_ingest ON public.usage_event_keys FOR ALL TO usage_ingest USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.usage_event_keys IS 'First times of events that have an idempotency key and no time of their own; written by the workers, deleted after USAGE_ACCEPT_DAYS.';
    COMMENT ON COLUMN public.usage_event_keys.key IS 'Identity of the event: its UUID, or the UUIDv5 of its key.';
    COMMENT ON COLUMN public.usage_event_keys.occurred_at IS 'The time with which the event was first delivered, and is counted.';
    COMMENT ON INDEX public.usage_event_keys_pkey IS 'Finds the first time of a key.';
    COMMENT ON INDEX public.idx_usage_event_keys_occurred_at IS 'Finds the oldest keys, which the task deletes.';
    COMMENT ON POLICY usage_event_keys_service_role ON public.usage_event_keys IS 'A service_role without BYPASSRLS reads every key.';
    COMMENT ON POLICY usage_event_keys_ingest ON public.usage_event_keys IS 'Workers that count see every row; grants limit what they do with it.';
END
$comments$;
