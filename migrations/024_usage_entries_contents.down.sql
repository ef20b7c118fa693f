-- squawk-ignore-file ban-drop-column -- a rollback removes what the upgrade created
-- Without the columns a reused key is a redelivery again, and events that wait are counted as redelivered.
REVOKE UPDATE (held_in) ON public.usage_entries FROM usage_ingest;
ALTER TABLE public.usage_entries DROP COLUMN contents, DROP COLUMN held_in;
