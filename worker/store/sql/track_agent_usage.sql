-- The schema's own door for one event at a time.
SELECT public.track_agent_usage(%(user_id)s, %(agent_id)s, %(success)s, %(tokens)s, %(cost)s, %(response_time)s)
