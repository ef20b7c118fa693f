-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created
-- squawk-ignore-file ban-drop-table -- as for functions
-- Vectors are not kept: the next upgrade computes them again. The extension vector stays, which others may use.
DROP FUNCTION public.search_agents(real[], text, integer, jsonb, text, double precision);
DROP TABLE public.agent_search_quality, public.agent_embedding_failures, public.agent_embeddings, public.agent_embedding_models;
DROP FUNCTION public.agent_embedding_is_unit(real[]);
