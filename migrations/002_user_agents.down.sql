-- squawk-ignore-file ban-drop-table -- a way down takes away what the way up brought

-- What an earlier way back from 4.0.0 or 3.0.0 kept aside belongs to these rows and goes with them.
DROP TABLE IF EXISTS public.user_agent_shares_kept_4_0_0;
DROP TABLE IF EXISTS public.user_agent_history_kept_4_0_0;
DROP TABLE IF EXISTS public.user_agents_kept_3_0_0;
DROP TABLE IF EXISTS public.user_role_assignments_kept_3_0_0;
DROP TABLE public.user_agents;
