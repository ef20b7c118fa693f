-- The second half of a DETACH CONCURRENTLY that was interrupted while it waited for older transactions.
ALTER TABLE public.{table} DETACH PARTITION public.{partition} FINALIZE
