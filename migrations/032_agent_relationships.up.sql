-- version: 5.0.0
-- lock_timeout: 100ms
--
-- Which agents are used by the same users, and which is a copy of which. The task analytics.graph writes all of it: tables
-- that the platform may own get no trigger, and ingest has no work with it.
--
-- Exact counts are the service role's alone. What users may read is made of counts rounded down to a multiple of 5, weights
-- too: of an exact cosine and an exact lift the exact count of common users follows. No rank is stored: a gap in it would
-- tell of an agent that the caller does not see.

-- The agents of each user as the pair counts have them. No foreign keys: a row that a cascade deleted could no longer be
-- subtracted from the counts.
CREATE TABLE public.agent_graph_members (
    user_id uuid PRIMARY KEY,
    agent_ids uuid[] NOT NULL
);
CREATE TABLE public.agent_pair_counts (
    agent_a uuid NOT NULL,
    agent_b uuid NOT NULL CHECK (agent_a <= agent_b),
    users bigint NOT NULL CHECK (users > 0),
    PRIMARY KEY (agent_a, agent_b)
);
CREATE TABLE public.agent_graph_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    computed_at timestamptz NOT NULL DEFAULT now(),
    -- squawk-ignore prefer-bigint-over-int -- a setting
    min_users integer NOT NULL
);
CREATE TABLE public.agent_relationships (
    source_id uuid NOT NULL REFERENCES public.agents (id) ON DELETE CASCADE,
    target_id uuid NOT NULL REFERENCES public.agents (id) ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('copy_of', 'used_with')),
    weight real NOT NULL CHECK (weight > 0 AND weight <= 1),
    users bigint CHECK (users >= 5 AND users % 5 = 0),
    evidence jsonb NOT NULL DEFAULT '{}',
    computed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_id, kind, target_id),
    CHECK (source_id <> target_id),
    CHECK ((kind = 'used_with') = (users IS NOT NULL))
);
CREATE INDEX idx_agent_relationships_weight ON public.agent_relationships (source_id, weight DESC, target_id);
CREATE INDEX idx_agent_relationships_target_id ON public.agent_relationships (target_id);
CREATE TABLE public.agent_popularity (
    agent_id uuid PRIMARY KEY REFERENCES public.agents (id) ON DELETE CASCADE,
    users bigint NOT NULL CHECK (users >= 5 AND users % 5 = 0),
    computed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_agent_popularity_users ON public.agent_popularity (users DESC, agent_id);

ALTER TABLE public.agent_graph_members ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agent_pair_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agent_graph_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agent_relationships ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agent_popularity ENABLE ROW LEVEL SECURITY;

-- The agents related to one. Row-level security hides those that the caller does not see before the limit counts.
CREATE FUNCTION public.related_agents(p_agent_id uuid, p_k integer DEFAULT 10)
RETURNS TABLE (rank bigint, agent_id uuid, kind text, weight real, users bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF p_agent_id IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'related_agents: p_agent_id is null';
    ELSIF p_k IS NULL OR p_k NOT BETWEEN 1 AND 50 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'related_agents: p_k must be 1 to 50';
    END IF;
    RETURN QUERY
    SELECT row_number() OVER (ORDER BY r.weight DESC, r.target_id, r.kind), r.target_id, r.kind, r.weight, r.users
      FROM public.agent_relationships r
     WHERE r.source_id = p_agent_id
     ORDER BY r.weight DESC, r.target_id, r.kind
     LIMIT p_k;
END
$body$;

-- The agents that a number of steps reach, each once, at its smallest depth. An agent that two relations lead to, a copy that
-- is also used together, counts once. UNION drops an agent that was reached at the
-- same depth before, and the depth ends cycles.
CREATE FUNCTION public.agent_neighbourhood(p_agent_id uuid, p_depth integer DEFAULT 2, p_per_node integer DEFAULT 10)
RETURNS TABLE (agent_id uuid, depth integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF p_agent_id IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = 'agent_neighbourhood: p_agent_id is null';
    ELSIF p_depth IS NULL OR p_depth NOT BETWEEN 1 AND 4 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'agent_neighbourhood: p_depth must be 1 to 4';
    ELSIF p_per_node IS NULL OR p_per_node NOT BETWEEN 1 AND 20 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'agent_neighbourhood: p_per_node must be 1 to 20';
    END IF;
    RETURN QUERY
    WITH RECURSIVE walk (agent_id, depth) AS (
        SELECT p_agent_id, 0
        UNION
        SELECT e.target_id, w.depth + 1
          FROM walk w
         CROSS JOIN LATERAL (
            SELECT r.target_id FROM public.agent_relationships r
             WHERE r.source_id = w.agent_id GROUP BY r.target_id ORDER BY max(r.weight) DESC, r.target_id LIMIT p_per_node
         ) e
         WHERE w.depth < p_depth AND e.target_id <> p_agent_id
    )
    SELECT w.agent_id, min(w.depth) FROM walk w WHERE w.depth > 0 GROUP BY w.agent_id ORDER BY 2, 1;
END
$body$;

-- The agents related to those of the caller, then the popular ones. Reads nothing but what the caller may read: own rows
-- and what the task has published. An agent of the caller's own is left out, also one that the caller has deleted.
-- created_by as text from JSON: a platform's agents may lack the column.
CREATE FUNCTION public.agents_for_me(p_k integer DEFAULT 10)
RETURNS TABLE (rank bigint, agent_id uuid, reason text, score real, users bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    v_user pg_catalog.uuid := auth.uid();
BEGIN
    IF p_k IS NULL OR p_k NOT BETWEEN 1 AND 50 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'agents_for_me: p_k must be 1 to 50';
    END IF;
    RETURN QUERY
    WITH own AS MATERIALIZED (
        SELECT ua.agent_id, ua.deleted_at FROM public.user_agents ua WHERE ua.user_id = v_user
    ), related AS MATERIALIZED (
        SELECT r.target_id AS agent_id, sum(r.weight) AS score
          FROM own JOIN public.agent_relationships r ON r.source_id = own.agent_id AND r.kind = 'used_with'
         WHERE own.deleted_at IS NULL AND r.target_id NOT IN (SELECT o.agent_id FROM own o)
         GROUP BY r.target_id
    ), popular AS (
        SELECT p.agent_id, p.users FROM public.agent_popularity p
         WHERE p.agent_id NOT IN (SELECT o.agent_id FROM own o)
           AND p.agent_id NOT IN (SELECT s.agent_id FROM related s)
           AND (SELECT lower(to_jsonb(a) ->> 'created_by') = v_user::text FROM public.agents a WHERE a.id = p.agent_id)
               IS NOT TRUE
         ORDER BY p.users DESC, p.agent_id LIMIT p_k
    ), found AS (
        SELECT s.agent_id, 'used_with' AS reason, s.score, NULL::bigint AS users FROM related s
         WHERE (SELECT lower(to_jsonb(a) ->> 'created_by') = v_user::text FROM public.agents a WHERE a.id = s.agent_id)
               IS NOT TRUE
         UNION ALL
        SELECT p.agent_id, 'popular', NULL, p.users FROM popular p
    )
    SELECT row_number() OVER (ORDER BY f.score DESC NULLS LAST, f.users DESC, f.agent_id), f.agent_id, f.reason, f.score,
           f.users
      FROM found f
     ORDER BY f.score DESC NULLS LAST, f.users DESC, f.agent_id
     LIMIT p_k;
END
$body$;

-- A platform's default privileges may have granted more.
REVOKE ALL ON public.agent_graph_members, public.agent_pair_counts, public.agent_graph_state, public.agent_relationships,
    public.agent_popularity FROM PUBLIC, anon, authenticated, service_role;
REVOKE ALL ON FUNCTION public.related_agents(uuid, integer), public.agent_neighbourhood(uuid, integer, integer),
    public.agents_for_me(integer) FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.agent_graph_members, public.agent_pair_counts, public.agent_graph_state, public.agent_relationships,
    public.agent_popularity TO service_role;
GRANT SELECT ON public.agent_relationships, public.agent_popularity, public.agent_graph_state TO authenticated;
GRANT EXECUTE ON FUNCTION public.related_agents(uuid, integer), public.agent_neighbourhood(uuid, integer, integer),
    public.agents_for_me(integer) TO authenticated, service_role;

-- Scalar subqueries: a look-up by key for each row, with the caller's rights. EXISTS may read all agents.
CREATE POLICY agent_relationships_visible ON public.agent_relationships FOR SELECT TO authenticated USING (
    (SELECT true FROM public.agents AS a WHERE a.id = agent_relationships.source_id)
    AND (SELECT true FROM public.agents AS a WHERE a.id = agent_relationships.target_id)
);
CREATE POLICY agent_popularity_visible ON public.agent_popularity FOR SELECT TO authenticated USING (
    (SELECT true FROM public.agents AS a WHERE a.id = agent_popularity.agent_id)
);
CREATE POLICY agent_graph_state_visible ON public.agent_graph_state FOR SELECT TO authenticated USING (true);
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY agent_relationships_service_role ON public.agent_relationships FOR SELECT TO service_role USING (true);
CREATE POLICY agent_popularity_service_role ON public.agent_popularity FOR SELECT TO service_role USING (true);
CREATE POLICY agent_graph_members_service_role ON public.agent_graph_members FOR SELECT TO service_role USING (true);
CREATE POLICY agent_pair_counts_service_role ON public.agent_pair_counts FOR SELECT TO service_role USING (true);
CREATE POLICY agent_graph_state_service_role ON public.agent_graph_state FOR SELECT TO service_role USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.agent_graph_members IS 'The agents of each user as agent_pair_counts has them; written by the task analytics.graph.';
    COMMENT ON COLUMN public.agent_graph_members.user_id IS 'The user; may have been deleted since the last run.';
    COMMENT ON COLUMN public.agent_graph_members.agent_ids IS 'Agents that the user has and has used within 90 days, in ascending order; more than 100 leave the user out of the counts.';
    COMMENT ON INDEX public.agent_graph_members_pkey IS 'Finds the agents of a user.';
    COMMENT ON TABLE public.agent_pair_counts IS 'How many users use two agents, exact, and, where both are the same, one agent; written by the task analytics.graph.';
    COMMENT ON COLUMN public.agent_pair_counts.agent_a IS 'The agent with the smaller id, or the only one.';
    COMMENT ON COLUMN public.agent_pair_counts.agent_b IS 'The agent with the larger id, or the only one.';
    COMMENT ON COLUMN public.agent_pair_counts.users IS 'Number of users who have both and have used both within 90 days; without users of more than 100 agents.';
    COMMENT ON INDEX public.agent_pair_counts_pkey IS 'Finds the count of two agents.';
    COMMENT ON TABLE public.agent_graph_state IS 'When agent_relationships and agent_popularity were computed, and with which minimum; one row, written by the task analytics.graph.';
    COMMENT ON COLUMN public.agent_graph_state.only_row IS 'Always true: there is one row.';
    COMMENT ON COLUMN public.agent_graph_state.computed_at IS 'When they were computed.';
    COMMENT ON COLUMN public.agent_graph_state.min_users IS 'USAGE_GRAPH_MIN_USERS at that time.';
    COMMENT ON INDEX public.agent_graph_state_pkey IS 'Keeps the table at one row.';
    COMMENT ON TABLE public.agent_relationships IS 'Relationships from one agent to another, at most 50 of a kind from each; computed once a day by the task analytics.graph.';
    COMMENT ON COLUMN public.agent_relationships.source_id IS 'The agent that has the relationship.';
    COMMENT ON COLUMN public.agent_relationships.target_id IS 'The agent to which it leads.';
    COMMENT ON COLUMN public.agent_relationships.kind IS 'copy_of: the source was made from the target; used_with: the same users use both, in a row for each direction.';
    COMMENT ON COLUMN public.agent_relationships.weight IS 'used_with: cosine of the sets of users, from rounded counts, above 0 to 1; copy_of: 1.';
    COMMENT ON COLUMN public.agent_relationships.users IS 'used_with: number of common users, rounded down to a multiple of 5; NULL: copy_of.';
    COMMENT ON COLUMN public.agent_relationships.evidence IS 'used_with: lift, from rounded counts, and window_days; copy_of: empty.';
    COMMENT ON COLUMN public.agent_relationships.computed_at IS 'When it was computed.';
    COMMENT ON INDEX public.agent_relationships_pkey IS 'Finds a relationship.';
    COMMENT ON INDEX public.idx_agent_relationships_weight IS 'Finds the relationships of an agent, the strongest first.';
    COMMENT ON INDEX public.idx_agent_relationships_target_id IS 'Finds the relationships to an agent that is deleted.';
    COMMENT ON POLICY agent_relationships_visible ON public.agent_relationships IS 'Users see a relationship if they see both agents.';
    COMMENT ON POLICY agent_relationships_service_role ON public.agent_relationships IS 'A service_role without BYPASSRLS reads every relationship.';
    COMMENT ON TABLE public.agent_popularity IS 'How many users use an agent; computed once a day by the task analytics.graph.';
    COMMENT ON COLUMN public.agent_popularity.agent_id IS 'The agent.';
    COMMENT ON COLUMN public.agent_popularity.users IS 'Number of users who have used it within 90 days, rounded down to a multiple of 5.';
    COMMENT ON COLUMN public.agent_popularity.computed_at IS 'When it was computed.';
    COMMENT ON INDEX public.agent_popularity_pkey IS 'Finds an agent.';
    COMMENT ON INDEX public.idx_agent_popularity_users IS 'Finds the most popular agents.';
    COMMENT ON POLICY agent_popularity_visible ON public.agent_popularity IS 'Users see the popularity of agents that they see.';
    COMMENT ON POLICY agent_popularity_service_role ON public.agent_popularity IS 'A service_role without BYPASSRLS reads every row.';
    COMMENT ON POLICY agent_graph_members_service_role ON public.agent_graph_members IS 'A service_role without BYPASSRLS reads every row.';
    COMMENT ON POLICY agent_pair_counts_service_role ON public.agent_pair_counts IS 'A service_role without BYPASSRLS reads every count.';
    COMMENT ON POLICY agent_graph_state_visible ON public.agent_graph_state IS 'Users see when relationships were computed, and from how many common users there are any.';
    COMMENT ON POLICY agent_graph_state_service_role ON public.agent_graph_state IS 'A service_role without BYPASSRLS reads the state.';
    COMMENT ON FUNCTION public.related_agents IS 'Returns the 1 to 50 strongest relationships of an agent that the caller sees; runs with the caller''s rights.';
    COMMENT ON FUNCTION public.agent_neighbourhood IS 'Returns the agents within 1 to 4 steps of an agent, each once with its smallest depth; follows the 1 to 20 strongest relationships of each; runs with the caller''s rights.';
    COMMENT ON FUNCTION public.agents_for_me IS 'Returns 1 to 50 agents for auth.uid(): by the sum of their weights to the user''s agents, then by popularity; runs with the caller''s rights.';
END
$comments$;
