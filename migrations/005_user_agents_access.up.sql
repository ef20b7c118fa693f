-- version: 3.0.0
-- lock_timeout: 100ms
--
-- Access: policies, grants, functions, views and triggers. Statements that lock user_agents come last, so that it is
-- locked for milliseconds.

-- Membership in teams: the table of the platform if it has one, which is never altered.
DO $assignments$
BEGIN
    IF to_regclass('public.user_role_assignments_kept_3_0_0') IS NOT NULL
        AND to_regclass('public.user_role_assignments') IS NULL
    THEN
        ALTER TABLE public.user_role_assignments_kept_3_0_0 RENAME TO user_role_assignments;
        GRANT SELECT ON public.user_role_assignments TO authenticated;
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.user_role_assignments TO service_role;
    ELSIF to_regclass('public.user_role_assignments') IS NULL THEN
        CREATE TABLE public.user_role_assignments (
            user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
            team_id uuid NOT NULL,
            role text NOT NULL DEFAULT 'member',
            PRIMARY KEY (user_id, team_id)
        );
        ALTER TABLE public.user_role_assignments ENABLE ROW LEVEL SECURITY;
        REVOKE ALL ON public.user_role_assignments FROM PUBLIC, anon, authenticated, service_role;
        GRANT SELECT ON public.user_role_assignments TO authenticated;
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.user_role_assignments TO service_role;
        CREATE POLICY user_role_assignments_select_own ON public.user_role_assignments FOR SELECT TO authenticated
            USING (user_id = (SELECT auth.uid()));
        CREATE POLICY user_role_assignments_service_role ON public.user_role_assignments FOR ALL TO service_role
            USING (true) WITH CHECK (true);
    END IF;
END
$assignments$;

-- 0.5 rating + 0.3 success rate + 0.2 usage tier, each on the scale of 0 to 5. An unrated agent counts as 3.0. RETURN
-- binds names at creation, independently of the caller's search_path. SET search_path would keep PostgreSQL from
-- inlining it into the trigger that runs for every counted row.
CREATE FUNCTION public.calculate_agent_quality_score(
    p_rating numeric, p_usage_count bigint, p_success_count bigint, p_error_count bigint
) RETURNS numeric(3, 2) LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN round(
    0.5 * coalesce(p_rating, 3.0)
    + CASE
        WHEN p_success_count + p_error_count > 0
            THEN 1.5 * p_success_count / (p_success_count + p_error_count)
        ELSE 0
    END
    + CASE
        WHEN p_usage_count > 100 THEN 1.0
        WHEN p_usage_count > 50 THEN 0.9
        WHEN p_usage_count > 20 THEN 0.8
        WHEN p_usage_count > 10 THEN 0.7
        WHEN p_usage_count > 5 THEN 0.6
        WHEN p_usage_count > 0 THEN 0.5
        ELSE 0
    END,
    2
);

-- The four functions below run with the rights of the caller: row-level security limits `authenticated` to its own rows
-- and lets service_role and the owner act for everybody.

-- A soft-deleted row is restored unchanged.
CREATE FUNCTION public.add_user_agent(
    p_user_id uuid, p_agent_id uuid, p_source text DEFAULT 'store', p_folder text DEFAULT NULL
) RETURNS uuid LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
    INSERT INTO public.user_agents AS ua (user_id, agent_id, source, folder)
    VALUES (p_user_id, p_agent_id, p_source, p_folder)
    ON CONFLICT (user_id, agent_id) DO UPDATE SET
        deleted_at = NULL,
        is_active = CASE WHEN ua.deleted_at IS NULL THEN ua.is_active ELSE true END,
        source = coalesce(ua.source, excluded.source),
        folder = coalesce(excluded.folder, ua.folder)
    RETURNING id
$body$;

CREATE FUNCTION public.track_agent_usage(
    p_user_id uuid,
    p_agent_id uuid,
    p_success boolean DEFAULT true,
    p_tokens bigint DEFAULT 0,
    p_cost numeric DEFAULT 0,
    p_response_time integer DEFAULT NULL
) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
    INSERT INTO public.user_agents AS ua (
        user_id, agent_id, usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,
        avg_response_time_ms, first_used_at, last_used_at
    )
    VALUES (
        p_user_id, p_agent_id, 1, 1,
        CASE WHEN coalesce(p_success, true) THEN 1 ELSE 0 END, CASE WHEN coalesce(p_success, true) THEN 0 ELSE 1 END,
        coalesce(p_tokens, 0), coalesce(p_cost, 0), p_response_time, now(), now()
    )
    ON CONFLICT (user_id, agent_id) DO UPDATE SET
        usage_count = ua.usage_count + 1,
        message_count = ua.message_count + 1,
        success_count = ua.success_count + excluded.success_count,
        error_count = ua.error_count + excluded.error_count,
        total_tokens_used = ua.total_tokens_used + excluded.total_tokens_used,
        total_cost_usd = ua.total_cost_usd + excluded.total_cost_usd,
        avg_response_time_ms = CASE
            WHEN excluded.avg_response_time_ms IS NULL THEN ua.avg_response_time_ms
            WHEN ua.avg_response_time_ms IS NULL THEN excluded.avg_response_time_ms
            ELSE round(
                (ua.avg_response_time_ms::numeric * ua.usage_count + excluded.avg_response_time_ms)
                / (ua.usage_count + 1)
            )
        END,
        first_used_at = coalesce(ua.first_used_at, excluded.first_used_at),
        last_used_at = greatest(ua.last_used_at, excluded.last_used_at)
$body$;

-- Under row-level security a foreign row would only seem to be missing; the two functions below raise an error instead.

-- Returns true if the row existed and was not deleted.
CREATE FUNCTION public.soft_delete_user_agent(p_user_id uuid, p_agent_id uuid)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF p_user_id IS DISTINCT FROM auth.uid() AND row_security_active('public.user_agents')
        AND NOT pg_has_role(current_user, 'service_role', 'MEMBER')
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'soft_delete_user_agent: this is not your user';
    END IF;
    UPDATE public.user_agents SET deleted_at = now(), is_active = false
    WHERE user_id = p_user_id AND agent_id = p_agent_id AND deleted_at IS NULL;
    RETURN FOUND;
END
$body$;

-- Returns true if the row existed and was deleted.
CREATE FUNCTION public.restore_user_agent(p_user_id uuid, p_agent_id uuid)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF p_user_id IS DISTINCT FROM auth.uid() AND row_security_active('public.user_agents')
        AND NOT pg_has_role(current_user, 'service_role', 'MEMBER')
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'restore_user_agent: this is not your user';
    END IF;
    UPDATE public.user_agents SET deleted_at = NULL, is_active = true
    WHERE user_id = p_user_id AND agent_id = p_agent_id AND deleted_at IS NOT NULL;
    RETURN FOUND;
END
$body$;

-- The two triggers may run for every counted row: one assignment each, no query.
CREATE FUNCTION public.user_agents_set_updated_at() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$body$;

CREATE FUNCTION public.user_agents_set_quality() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    NEW.quality_score := public.calculate_agent_quality_score(
        NEW.user_rating, NEW.usage_count, NEW.success_count, NEW.error_count
    );
    RETURN NEW;
END
$body$;

DO $execute$
DECLARE
    callable text;
BEGIN
    REVOKE ALL ON FUNCTION public.user_agents_set_updated_at(), public.user_agents_set_quality()
        FROM PUBLIC, anon, authenticated, service_role;
    FOREACH callable IN ARRAY ARRAY[
        'public.calculate_agent_quality_score(numeric, bigint, bigint, bigint)',
        'public.add_user_agent(uuid, uuid, text, text)',
        'public.track_agent_usage(uuid, uuid, boolean, bigint, numeric, integer)',
        'public.soft_delete_user_agent(uuid, uuid)',
        'public.restore_user_agent(uuid, uuid)'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, anon, authenticated, service_role', callable);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO authenticated, service_role', callable);
    END LOOP;
END
$execute$;

CREATE VIEW public.user_agents_with_details WITH (security_invoker = true) AS
SELECT
    ua.*,
    a.name AS agent_name,
    a.description AS agent_description,
    CASE
        WHEN ua.last_used_at IS NULL THEN 'never_used'
        WHEN ua.last_used_at >= now() - interval '24 hours' THEN 'active'
        WHEN ua.last_used_at >= now() - interval '7 days' THEN 'recent'
        WHEN ua.last_used_at >= now() - interval '30 days' THEN 'occasional'
        ELSE 'inactive'
    END AS usage_status,
    round(100.0 * ua.success_count / nullif(ua.success_count + ua.error_count, 0), 2) AS success_rate_percent
FROM public.user_agents AS ua
-- LEFT JOIN: row-level security may hide an inactive agent from a user who still has it.
LEFT JOIN public.agents AS a ON a.id = ua.agent_id
WHERE ua.deleted_at IS NULL;

CREATE VIEW public.user_favorite_agents WITH (security_invoker = true) AS
SELECT * FROM public.user_agents_with_details WHERE is_favorite ORDER BY sort_order, added_at DESC;

CREATE VIEW public.user_popular_agents WITH (security_invoker = true) AS
SELECT * FROM public.user_agents_with_details WHERE usage_count > 0 ORDER BY usage_count DESC, last_used_at DESC;

CREATE VIEW public.user_recent_agents WITH (security_invoker = true) AS
SELECT * FROM public.user_agents_with_details WHERE last_used_at IS NOT NULL ORDER BY last_used_at DESC;

REVOKE ALL ON public.user_agents_with_details, public.user_favorite_agents, public.user_popular_agents,
    public.user_recent_agents FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.user_agents_with_details, public.user_favorite_agents, public.user_popular_agents,
    public.user_recent_agents TO authenticated, service_role;

-- (SELECT auth.uid()) is evaluated once per query, auth.uid() once per row.
ALTER POLICY user_agents_select_own ON public.user_agents USING (user_id = (SELECT auth.uid()));
ALTER POLICY user_agents_insert_own ON public.user_agents WITH CHECK (user_id = (SELECT auth.uid()));
ALTER POLICY user_agents_update_own ON public.user_agents
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
CREATE POLICY user_agents_delete_own ON public.user_agents FOR DELETE TO authenticated
    USING (user_id = (SELECT auth.uid()));
CREATE POLICY user_agents_select_team ON public.user_agents FOR SELECT TO authenticated
    USING (
        is_shared
        AND deleted_at IS NULL
        AND (
            (SELECT auth.uid()) = ANY (shared_with)
            OR team_id IN (
                SELECT membership.team_id FROM public.user_role_assignments AS membership
                WHERE membership.user_id = (SELECT auth.uid())
            )
        )
    );
GRANT DELETE ON public.user_agents TO authenticated;

-- WHEN skips calls that would change nothing: ingest sets the time itself, and most uses leave the score unchanged.
CREATE TRIGGER user_agents_updated_at BEFORE UPDATE ON public.user_agents
    FOR EACH ROW WHEN (NEW.updated_at IS DISTINCT FROM now()) EXECUTE FUNCTION public.user_agents_set_updated_at();
CREATE TRIGGER user_agents_auto_quality
    BEFORE INSERT OR UPDATE OF user_rating, usage_count, success_count, error_count ON public.user_agents
    FOR EACH ROW WHEN (
        NEW.quality_score IS DISTINCT FROM public.calculate_agent_quality_score(
            NEW.user_rating, NEW.usage_count, NEW.success_count, NEW.error_count
        )
    ) EXECUTE FUNCTION public.user_agents_set_quality();
