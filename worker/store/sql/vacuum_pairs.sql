-- Statistics for the planner, and summaries for the BRIN indexes: without those they would cost updates nothing.
VACUUM (ANALYZE) public.user_agents
