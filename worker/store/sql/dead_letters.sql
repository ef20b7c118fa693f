-- The quarantine, oldest first.
SELECT id, entry_key, position, stream, entry_id, events, reason, payload, created_at, replayed_at
  FROM public.usage_dead_letters
 ORDER BY id
