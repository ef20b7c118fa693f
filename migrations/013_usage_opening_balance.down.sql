-- squawk-disable-assume-in-transaction
--
-- The track_agent_usage of 3.0.0 writes the counters with the rights of its caller. In one statement, because revoking the
-- right to the table also revokes it for single columns.
DO $down$
BEGIN
    REVOKE INSERT, UPDATE ON public.user_agents FROM authenticated;
    GRANT INSERT, UPDATE ON public.user_agents TO authenticated;
END
$down$;
