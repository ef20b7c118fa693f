-- Shares whose time is over: they give nothing any more, but the columns of 3.0.0 still name them. The rows first, as
-- their users lock them who share and unshare; one that somebody is changing is left to the next run.
WITH held AS MATERIALIZED (
    SELECT id FROM public.user_agents
     WHERE id = ANY (ARRAY(
            SELECT user_agent_id FROM public.user_agent_shares
             WHERE expires_at <= now() ORDER BY expires_at LIMIT %(rows)s))
       FOR NO KEY UPDATE SKIP LOCKED
)
DELETE FROM public.user_agent_shares AS s USING held
 WHERE s.user_agent_id = held.id AND s.expires_at <= now()
