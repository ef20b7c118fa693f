-- version: 4.1.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
--
-- What a delivery of an entry is compared with: its first delivery's contents, and whether all of it was counted. Neither
-- column has a default, so no row is rewritten. Each statement can be repeated after a kill.

ALTER TABLE public.usage_entries
    ADD COLUMN IF NOT EXISTS contents uuid,
    ADD COLUMN IF NOT EXISTS held_in text;
GRANT UPDATE (held_in) ON public.usage_entries TO usage_ingest;

-- Restores what a rollback from 4.1.0 kept. In a transaction of its own, since the change above locks the table.
DO $restore$
BEGIN
    IF to_regclass('public.usage_entries_kept_4_1_0') IS NOT NULL THEN
        UPDATE public.usage_entries AS e SET contents = k.contents, held_in = k.held_in
          FROM public.usage_entries_kept_4_1_0 AS k WHERE k.key = e.key;
        DROP TABLE public.usage_entries_kept_4_1_0;
    END IF;
END
$restore$;

DO $comments$
BEGIN
    COMMENT ON COLUMN public.usage_entries.contents IS 'Hash of the entry''s events at its first delivery; NULL for entries from before 4.1.0.';
    COMMENT ON COLUMN public.usage_entries.held_in IS 'Id of the stream entry of which some events wait because others hold their rows, and the positions of these events in it; NULL if all are counted.';
END
$comments$;
