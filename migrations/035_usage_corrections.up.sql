-- version: 5.1.0
-- lock_timeout: 100ms
--
-- What `usage-worker correct` has changed in the ledger. An event is corrected in place, so its former values stand nowhere
-- else.

-- A rollback from 5.1.0 kept the rows: nobody could make them again.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_corrections_kept_5_1_0 RENAME TO usage_corrections;
CREATE TABLE IF NOT EXISTS public.usage_corrections (
    id bigint GENERATED ALWAYS AS IDENTITY,
    event_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    changes jsonb NOT NULL,
    reason text CHECK (char_length(reason) <= 500),
    -- As set, and not the session's own.
    actor_role text NOT NULL DEFAULT coalesce(nullif(current_setting('role', true), 'none'), session_user::text),
    corrected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, id)
);
ALTER TABLE public.usage_corrections ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more. Only the owner corrects.
REVOKE ALL ON public.usage_corrections FROM PUBLIC, anon, authenticated, service_role;
REVOKE ALL ON SEQUENCE public.usage_corrections_id_seq FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_corrections TO service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_corrections_service_role ON public.usage_corrections FOR SELECT TO service_role USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.usage_corrections IS 'The history of corrected events; written by usage-worker correct, deleted with the ledger''s days.';
    COMMENT ON COLUMN public.usage_corrections.id IS 'Orders the corrections as they were made.';
    COMMENT ON COLUMN public.usage_corrections.event_id IS 'The event; usage_events has its present values.';
    COMMENT ON COLUMN public.usage_corrections.occurred_at IS 'When the event happened.';
    COMMENT ON COLUMN public.usage_corrections.user_id IS 'The user of the pair.';
    COMMENT ON COLUMN public.usage_corrections.agent_id IS 'The agent of the pair.';
    COMMENT ON COLUMN public.usage_corrections.changes IS 'What changed: {column: {"old": value, "new": value}}.';
    COMMENT ON COLUMN public.usage_corrections.reason IS 'Why, in the words of whoever corrected; NULL: not given.';
    COMMENT ON COLUMN public.usage_corrections.actor_role IS 'Role of the session that corrected.';
    COMMENT ON COLUMN public.usage_corrections.corrected_at IS 'When the event was corrected.';
    COMMENT ON INDEX public.usage_corrections_pkey IS 'Finds the corrections of an event.';
    COMMENT ON POLICY usage_corrections_service_role ON public.usage_corrections IS 'A service_role without BYPASSRLS reads every correction.';
END
$comments$;
