-- How many rows are due, and how many seconds ago the oldest of them was deleted.
SELECT count(*) AS remaining, extract(epoch FROM now() - min(deleted_at))::float8 AS oldest_remaining_seconds
  FROM public.user_agents
 WHERE deleted_at <= now() - %(older_than)s::interval
