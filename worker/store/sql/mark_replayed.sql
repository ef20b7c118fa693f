-- The letters whose events are in the stream again.
UPDATE public.usage_dead_letters SET replayed_at = now() WHERE id = ANY (%(ids)s::bigint[]) RETURNING id
