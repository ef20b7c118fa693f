-- version: 3.0.0
-- transaction: off
-- lock_timeout: 15min
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file renaming-object -- only indexes are renamed, and no client names one
--
-- Building concurrently blocks neither readers nor writers. It waits for older transactions and nobody waits for it, so
-- the lock timeout may be long.

CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_user_active
    ON public.user_agents (user_id) WHERE is_active AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_favorites
    ON public.user_agents (user_id) WHERE is_favorite AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_pinned
    ON public.user_agents (user_id) WHERE is_pinned AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_folder
    ON public.user_agents (user_id, folder) WHERE folder IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_tags
    ON public.user_agents USING gin (tags);
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_status
    ON public.user_agents (user_id, status) WHERE deleted_at IS NULL;

CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_last_used
    ON public.user_agents (user_id, last_used_at DESC NULLS LAST) WHERE deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_usage_count
    ON public.user_agents (user_id, usage_count DESC) WHERE deleted_at IS NULL;

-- Remains if the rollback stopped between building and renaming.
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_added_at_2;
-- The definition changes under the same name: the new index is built before the old one is dropped.
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_added_at_3
    ON public.user_agents (user_id, added_at DESC) WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_added_at;
ALTER INDEX IF EXISTS public.idx_user_agents_added_at_3 RENAME TO idx_user_agents_added_at;

CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_rating
    ON public.user_agents (user_id, user_rating DESC) WHERE user_rating IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_quality
    ON public.user_agents (user_id, quality_score DESC NULLS LAST) WHERE deleted_at IS NULL;

CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_team
    ON public.user_agents (team_id) WHERE team_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_shared
    ON public.user_agents USING gin (shared_with) WHERE is_shared AND deleted_at IS NULL;

CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_settings
    ON public.user_agents USING gin (settings jsonb_path_ops);
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_preferences
    ON public.user_agents USING gin (preferences jsonb_path_ops);
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_metadata
    ON public.user_agents USING gin (metadata jsonb_path_ops);

CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_archived
    ON public.user_agents (user_id, archived_at DESC) WHERE archived_at IS NOT NULL AND deleted_at IS NULL;
-- The purge looks for old deletions of all users.
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_deleted
    ON public.user_agents (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_user_folder_order
    ON public.user_agents (user_id, folder, sort_order) WHERE deleted_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_user_status_last_used
    ON public.user_agents (user_id, status, last_used_at DESC NULLS LAST) WHERE deleted_at IS NULL;
