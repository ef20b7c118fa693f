-- Sums of ended lives on days that the ledger has no longer.
DELETE FROM public.usage_past_daily
 WHERE ctid = ANY (ARRAY(SELECT ctid FROM public.usage_past_daily WHERE day < %(oldest)s LIMIT %(rows)s))
