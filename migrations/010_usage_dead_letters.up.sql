-- version: 4.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file prefer-bigint-over-int -- the contract bounds these numbers well below two thousand million
--
-- Events and entries that cannot be counted, with the reason.

-- A rollback from 4.0.0 kept the rows under another name.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_dead_letters_kept_4_0_0 RENAME TO usage_dead_letters;
CREATE TABLE IF NOT EXISTS public.usage_dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry_key uuid NOT NULL,
    position integer NOT NULL,
    stream text NOT NULL,
    entry_id text NOT NULL,
    events integer NOT NULL DEFAULT 1 CHECK (events > 0),
    reason text NOT NULL,
    payload text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    replayed_at timestamptz,
    UNIQUE (entry_key, position)
);
ALTER TABLE public.usage_dead_letters ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more than SELECT.
REVOKE ALL ON public.usage_dead_letters FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_dead_letters TO service_role;
REVOKE ALL ON SEQUENCE public.usage_dead_letters_id_seq FROM PUBLIC, anon, authenticated, service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_dead_letters_service_role ON public.usage_dead_letters FOR SELECT TO service_role USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.usage_dead_letters IS 'Events and unreadable entries that could not be counted, with the reason; written by the workers, replayed by usage-worker dead-letters.';
    COMMENT ON COLUMN public.usage_dead_letters.id IS 'Identifies the dead letter.';
    COMMENT ON COLUMN public.usage_dead_letters.entry_key IS 'Key of the stream entry, the same at each delivery.';
    COMMENT ON COLUMN public.usage_dead_letters.position IS 'Place of the event in the entry, from 0; 0 for a whole entry.';
    COMMENT ON COLUMN public.usage_dead_letters.stream IS 'Name of the Redis stream.';
    COMMENT ON COLUMN public.usage_dead_letters.entry_id IS 'Id of the entry in the stream.';
    COMMENT ON COLUMN public.usage_dead_letters.events IS 'Number of events in the dead letter: more than 1 when a whole entry was unreadable.';
    COMMENT ON COLUMN public.usage_dead_letters.reason IS 'Why it cannot be counted, in one line.';
    COMMENT ON COLUMN public.usage_dead_letters.payload IS 'The event or the entry, as it was received.';
    COMMENT ON COLUMN public.usage_dead_letters.created_at IS 'When it was quarantined.';
    COMMENT ON COLUMN public.usage_dead_letters.replayed_at IS 'When it was last sent to the stream again; NULL: never.';
    COMMENT ON INDEX public.usage_dead_letters_pkey IS 'Finds a dead letter by its id.';
    COMMENT ON INDEX public.usage_dead_letters_entry_key_position_key IS 'Keeps an event that is delivered again from a second dead letter.';
    COMMENT ON POLICY usage_dead_letters_service_role ON public.usage_dead_letters IS 'A service_role without BYPASSRLS reads every dead letter.';
END
$comments$;
