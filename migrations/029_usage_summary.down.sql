-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created
DROP FUNCTION public.usage_summary(timestamptz, timestamptz, text, text[], uuid, uuid);
