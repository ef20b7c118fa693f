-- What every task did last.
SELECT task, finished_at, seconds, report FROM public.usage_maintenance ORDER BY task
