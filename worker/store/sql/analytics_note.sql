-- In the transaction of the refresh, so that figures and age are seen together.
INSERT INTO public.user_agent_analytics_state (refreshed_at, mark) VALUES (now(), %(mark)s)
ON CONFLICT (only_row) DO UPDATE SET refreshed_at = excluded.refreshed_at, mark = excluded.mark
RETURNING refreshed_at
