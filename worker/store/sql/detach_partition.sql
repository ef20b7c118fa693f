-- CONCURRENTLY: dropping a partition in one go would lock out every reader and writer of the table.
ALTER TABLE public.{table} DETACH PARTITION public.{partition} CONCURRENTLY
