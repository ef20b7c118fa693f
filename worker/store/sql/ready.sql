-- Costs nothing and fails where the schema is missing or too old to ingest.
SELECT FROM public.usage_entries LIMIT 0
