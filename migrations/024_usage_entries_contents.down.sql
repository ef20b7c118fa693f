-- squawk-ignore-file ban-drop-column -- a rollback removes what the upgrade created
--
-- The columns are kept for the next upgrade, readable by the owner only. Until then a reused key is a redelivery.
DO $keep$
BEGIN
    -- No batch may commit between the copy and the drop.
    LOCK TABLE public.usage_entries IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM public.usage_entries WHERE contents IS NOT NULL) THEN
        CREATE TABLE public.usage_entries_kept_4_1_0 AS
        SELECT key, contents, held_in FROM public.usage_entries WHERE contents IS NOT NULL;
        ALTER TABLE public.usage_entries_kept_4_1_0 ENABLE ROW LEVEL SECURITY;
        REVOKE ALL ON public.usage_entries_kept_4_1_0 FROM PUBLIC, anon, authenticated, service_role, usage_ingest;
    END IF;
    REVOKE UPDATE (held_in) ON public.usage_entries FROM usage_ingest;
    ALTER TABLE public.usage_entries DROP COLUMN contents, DROP COLUMN held_in;
END
$keep$;
