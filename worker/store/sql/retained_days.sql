-- The days that the ledger has, oldest first; those that are only made ahead are left out.
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'public.usage_events'::regclass AND NOT i.inhdetachpending
   AND right(c.relname, 8) <= to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYYMMDD')
 ORDER BY day
