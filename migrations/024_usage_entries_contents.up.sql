-- version: 4.1.0
-- lock_timeout: 100ms
--
-- What a delivery of an entry is compared with: its first delivery's contents, and whether all of it was counted. Neither
-- column has a default, so no row is rewritten.

ALTER TABLE public.usage_entries
    ADD COLUMN IF NOT EXISTS contents uuid,
    ADD COLUMN IF NOT EXISTS held_in text;
GRANT UPDATE (held_in) ON public.usage_entries TO usage_ingest;

DO $comments$
BEGIN
    COMMENT ON COLUMN public.usage_entries.contents IS 'Hash of the entry''s events at its first delivery; NULL for entries from before 4.1.0.';
    COMMENT ON COLUMN public.usage_entries.held_in IS 'Id of the stream entry of which some events wait because others hold their rows, and the positions of these events in it; NULL if all are counted.';
END
$comments$;
