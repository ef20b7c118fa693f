-- squawk-ignore-file ban-drop-table -- a rollback removes what the upgrade created
-- Most anomalies cannot be computed again, so rows are kept for the next upgrade, readable by the owner only.
DO $down$
BEGIN
    -- No run may commit between the check for rows and the drop.
    LOCK TABLE public.agent_anomalies IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM public.agent_anomalies) THEN
        DROP POLICY agent_anomalies_service_role ON public.agent_anomalies;
        REVOKE ALL ON public.agent_anomalies FROM PUBLIC, anon, authenticated, service_role, usage_ingest;
        ALTER TABLE public.agent_anomalies RENAME TO agent_anomalies_kept_5_0_0;
    ELSE
        DROP TABLE public.agent_anomalies;
    END IF;
END
$down$;
