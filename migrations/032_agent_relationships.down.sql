-- squawk-ignore-file ban-drop-function, ban-drop-table -- a rollback removes what the upgrade created
-- Nothing is kept: the next run of the task computes all of it again.
DROP FUNCTION public.agents_for_me(integer);
DROP FUNCTION public.agent_neighbourhood(uuid, integer, integer);
DROP FUNCTION public.related_agents(uuid, integer);
DROP TABLE public.agent_popularity;
DROP TABLE public.agent_relationships;
DROP TABLE public.agent_graph_state;
DROP TABLE public.agent_pair_counts;
DROP TABLE public.agent_graph_members;
