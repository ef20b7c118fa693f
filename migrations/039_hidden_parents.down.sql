-- As in 4.0.0.
CREATE OR REPLACE FUNCTION public.usage_find_parents(p_users uuid[], p_agents uuid[])
RETURNS TABLE (user_id uuid, agent_id uuid, user_exists boolean, agent_exists boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT pair.user_id, pair.agent_id,
           EXISTS (SELECT FROM auth.users AS u WHERE u.id = pair.user_id),
           EXISTS (SELECT FROM public.agents AS a WHERE a.id = pair.agent_id)
      FROM unnest(p_users, p_agents) AS pair (user_id, agent_id)
$$;
