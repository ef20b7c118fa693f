-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created
-- squawk-ignore-file ban-drop-view -- as for functions

DROP POLICY "Editors can update shared agents" ON public.user_agents;
DROP VIEW public.user_agents_shared_with_me;
DROP FUNCTION public.decline_share(uuid);
DROP FUNCTION public.accept_share(uuid);
DROP FUNCTION public.user_agent_shares_answer(uuid, boolean);
DROP FUNCTION public.user_agents_received();
DROP FUNCTION public.edit_shared_agent(uuid, jsonb);
DROP FUNCTION public.user_agents_edit_allowed(jsonb);
DROP FUNCTION public.user_agents_editable_columns();
