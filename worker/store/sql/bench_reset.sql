-- Nobody has an agent; a table beside user_agents will hold what a benchmark fills it with.
TRUNCATE public.agents, auth.users CASCADE;
DROP TABLE IF EXISTS public.bench_pairs;
CREATE UNLOGGED TABLE public.bench_pairs (
    user_id uuid, agent_id uuid, chance integer, added_at timestamptz, last_used_at timestamptz, uses integer
)
