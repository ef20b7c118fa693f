-- The ledger's partition of a day; a look into the catalogue when it is there already.
SELECT public.usage_events_ensure_day(%(day)s::date)
