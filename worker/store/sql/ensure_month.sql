-- The audit trail's partition of a day's month; a look into the catalogue when it is there already.
SELECT public.user_agent_history_ensure_month(%(day)s::date)
