-- version: 5.1.0
-- lock_timeout: 100ms
--
-- Users who were erased, as keyed hashes: nothing of them is counted again, and a restored backup can be erased again. The
-- key is not in the database, so that nobody finds out from it alone whom a hash stands for.

-- A rollback from 5.1.0 kept the rows: nobody could make them again.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_forgotten_kept_5_1_0 RENAME TO usage_forgotten;
CREATE TABLE IF NOT EXISTS public.usage_forgotten (
    hash bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    key_id bytea NOT NULL CHECK (octet_length(key_id) = 8),
    forgotten_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE public.usage_forgotten ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more.
REVOKE ALL ON public.usage_forgotten FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_forgotten TO service_role, usage_ingest;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_forgotten_service_role ON public.usage_forgotten FOR SELECT TO service_role USING (true);
CREATE POLICY usage_forgotten_ingest ON public.usage_forgotten FOR SELECT TO usage_ingest USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.usage_forgotten IS 'Users who were erased, as keyed hashes; written by usage-worker forget, read by the workers that count.';
    COMMENT ON COLUMN public.usage_forgotten.hash IS 'HMAC-SHA-256 of the 16 bytes of the user''s UUID with USAGE_FORGET_KEY.';
    COMMENT ON COLUMN public.usage_forgotten.key_id IS 'Names the key without revealing it, so that a worker with another one notices: 8 bytes of an HMAC.';
    COMMENT ON COLUMN public.usage_forgotten.forgotten_at IS 'When the user was first erased.';
    COMMENT ON INDEX public.usage_forgotten_pkey IS 'Finds out whether a user was erased.';
    COMMENT ON POLICY usage_forgotten_service_role ON public.usage_forgotten IS 'A service_role without BYPASSRLS reads every hash.';
    COMMENT ON POLICY usage_forgotten_ingest ON public.usage_forgotten IS 'Workers that count see every hash.';
END
$comments$;
