-- squawk-disable-assume-in-transaction
-- squawk-ignore-file renaming-object -- only indexes are renamed, and no client names one

DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_user_active;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_favorites;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_pinned;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_folder;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_tags;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_status;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_last_used;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_usage_count;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_rating;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_quality;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_team;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_shared;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_settings;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_preferences;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_metadata;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_archived;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_deleted;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_user_folder_order;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_user_status_last_used;

-- Remains if the upgrade stopped between building and renaming.
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_added_at_3;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_added_at_2 ON public.user_agents (added_at);
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_added_at;
ALTER INDEX IF EXISTS public.idx_user_agents_added_at_2 RENAME TO idx_user_agents_added_at;
COMMENT ON INDEX public.idx_user_agents_added_at IS 'Finds the agents that were added last.';
