-- version: 5.2.0
-- lock_timeout: 100ms
--
-- usage_find_parents fails, so that events wait, where row-level security may hide a user or an agent from its owner. It said
-- that the row is missing, and the events were quarantined.

CREATE OR REPLACE FUNCTION public.usage_find_parents(p_users uuid[], p_agents uuid[])
RETURNS TABLE (user_id uuid, agent_id uuid, user_exists boolean, agent_exists boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Of a policy with any other condition than true nobody knows which rows it hides. requirements.sql asks the same.
    v_hiding CONSTANT pg_catalog.text[] := ARRAY(
        SELECT format('%s.%s', n.nspname, c.relname)
          FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE (n.nspname, c.relname) IN (('auth', 'users'), ('public', 'agents')) AND row_security_active(c.oid)
           AND (SELECT bool_or(p.polpermissive AND shows.everything) AND bool_and(p.polpermissive OR shows.everything)
                  FROM pg_policy AS p
                 CROSS JOIN LATERAL (
                     SELECT coalesce(pg_get_expr(p.polqual, p.polrelid) = 'true', NOT p.polpermissive) AS everything
                 ) AS shows
                 WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*')
                   AND EXISTS (SELECT FROM unnest(p.polroles) AS role WHERE role = 0 OR pg_has_role(role, 'USAGE'))
               ) IS NOT TRUE
    );
    v_table pg_catalog.text;
BEGIN
    SELECT hiding INTO v_table FROM unnest(v_hiding) AS hiding
     WHERE CASE hiding
               WHEN 'auth.users' THEN EXISTS (
                   SELECT unnest(p_users) EXCEPT SELECT u.id FROM auth.users AS u WHERE u.id = ANY (p_users))
               ELSE EXISTS (
                   SELECT unnest(p_agents) EXCEPT SELECT a.id FROM public.agents AS a WHERE a.id = ANY (p_agents))
           END;
    IF FOUND THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('row-level security of %1$s may hide rows from role %2$I; CREATE POLICY usage_worker ON %1$s'
                             ' FOR SELECT TO %2$I USING (true); where a restrictive policy applies to this role, ALTER ROLE %2$I'
                             ' BYPASSRLS', v_table, current_user);
    END IF;
    RETURN QUERY
    SELECT pair.user_id, pair.agent_id,
           EXISTS (SELECT FROM auth.users AS u WHERE u.id = pair.user_id),
           EXISTS (SELECT FROM public.agents AS a WHERE a.id = pair.agent_id)
      FROM unnest(p_users, p_agents) AS pair (user_id, agent_id);
END $$;
