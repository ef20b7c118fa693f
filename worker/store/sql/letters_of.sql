-- What an entry that is delivered again has in the quarantine since the first time.
SELECT entry_key, position FROM public.usage_dead_letters WHERE entry_key = ANY (%(keys)s)
