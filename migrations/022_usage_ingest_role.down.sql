-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created
--
-- Workers with the role stop counting, and their events wait.

-- IF: the upgrade or this rollback may have stopped after any statement.
DO $rights$
DECLARE
    v_table text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'usage_ingest') THEN
        RETURN;
    END IF;
    FOREACH v_table IN ARRAY ARRAY[
        'usage_entries', 'user_agents', 'user_agent_conversations', 'usage_daily', 'usage_events',
        'usage_dead_letters', 'usage_intake', 'usage_task_runs', 'usage_migrations'
    ] LOOP
        CONTINUE WHEN to_regclass('public.' || v_table) IS NULL;
        EXECUTE format('DROP POLICY IF EXISTS %I ON public.%I', v_table || '_ingest', v_table);
        EXECUTE format('REVOKE ALL ON public.%I FROM usage_ingest', v_table);
        COMMIT;
    END LOOP;
END
$rights$;

DROP FUNCTION IF EXISTS public.usage_events_ensure_recent_day(date);
DROP FUNCTION IF EXISTS public.usage_find_parents(uuid[], uuid[]);
DROP FUNCTION IF EXISTS public.usage_create_parents(uuid[], uuid[]);

-- The role stays if it is not ours, if another database of the cluster uses it, or if it has members, who would lose
-- their membership. PostgreSQL >= 16 makes the role that created it a member.
DO $role$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_roles AS r
         WHERE r.rolname = 'usage_ingest' AND shobj_description(r.oid, 'pg_authid') = 'created by usage-worker'
           AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_auth_members AS m
                WHERE m.roleid = r.oid AND m.member <> current_user::regrole)
    ) THEN
        DROP ROLE usage_ingest;
    END IF;
EXCEPTION WHEN
    dependent_objects_still_exist OR object_in_use OR undefined_object OR insufficient_privilege OR lock_not_available
    OR internal_error
THEN
    NULL;
END
$role$;
