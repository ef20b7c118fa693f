-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created
-- squawk-ignore-file ban-drop-table -- as for functions
CREATE OR REPLACE FUNCTION public.usage_create_parents(p_users uuid[], p_agents uuid[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO auth.users (id) SELECT unnest(p_users) ORDER BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO public.agents (id, name)
    SELECT id, id::text FROM unnest(p_agents) AS id ORDER BY 1 ON CONFLICT DO NOTHING;
$$;
COMMENT ON FUNCTION public.usage_create_parents IS 'Inserts bare users and agents for USAGE_UNKNOWN=create; an agent gets its id as its name.';
-- Rows are kept for the next upgrade, readable by the owner only.
DO $down$
DECLARE
    v_table text;
    v_is_kept boolean;
BEGIN
    -- No batch may commit between the check for rows and the drop.
    LOCK TABLE public.usage_external_ids, public.usage_id_namespace IN ACCESS EXCLUSIVE MODE;
    DROP POLICY usage_external_ids_own ON public.usage_external_ids;
    FOREACH v_table IN ARRAY ARRAY['usage_external_ids', 'usage_id_namespace'] LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM public.%I)', v_table) INTO v_is_kept;
        IF v_is_kept THEN
            EXECUTE format('DROP POLICY %I ON public.%I', v_table || '_service_role', v_table);
            EXECUTE format('DROP POLICY %I ON public.%I', v_table || '_ingest', v_table);
            EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated, service_role, usage_ingest', v_table);
            EXECUTE format('ALTER TABLE public.%I RENAME TO %I', v_table, v_table || '_kept_4_3_0');
        ELSE
            EXECUTE format('DROP TABLE public.%I', v_table);
        END IF;
    END LOOP;
END
$down$;
DROP FUNCTION public.usage_uuid_of(text, text);
DROP FUNCTION public.usage_own_conversation_ids();
