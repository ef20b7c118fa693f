-- So that every COPY of a benchmark finds the same empty ledger.
TRUNCATE public.usage_events
