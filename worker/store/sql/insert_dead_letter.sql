-- Once per place in the stream, however often the entry is delivered.
INSERT INTO public.usage_dead_letters (entry_key, position, stream, entry_id, events, reason, payload)
VALUES (%(entry_key)s, %(position)s, %(stream)s, %(entry_id)s, %(events)s, %(reason)s, %(payload)s)
ON CONFLICT (entry_key, position) DO NOTHING
