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
COMMENT ON COLUMN public.usage_dead_letters.events IS 'number of events in the dead letter: more than 1 when a whole entry was unreadable';
ALTER TABLE public.usage_dead_letters ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more than SELECT.
REVOKE ALL ON public.usage_dead_letters FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_dead_letters TO service_role;
REVOKE ALL ON SEQUENCE public.usage_dead_letters_id_seq FROM PUBLIC, anon, authenticated, service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_dead_letters_service_role ON public.usage_dead_letters FOR SELECT TO service_role USING (true);
