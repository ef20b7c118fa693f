-- version: 4.0.0
-- transaction: off
-- lock_timeout: 15min
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file renaming-object -- only indexes are renamed, and no client names one
--
-- Restores the ordinary indexes of 3.0.0.

DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_last_used_4;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_last_used_3
    ON public.user_agents (user_id, last_used_at DESC NULLS LAST) WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_last_used;
ALTER INDEX IF EXISTS public.idx_user_agents_last_used_3 RENAME TO idx_user_agents_last_used;

DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_usage_count_4;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_usage_count_3
    ON public.user_agents (user_id, usage_count DESC) WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_usage_count;
ALTER INDEX IF EXISTS public.idx_user_agents_usage_count_3 RENAME TO idx_user_agents_usage_count;

DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_quality_4;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_quality_3
    ON public.user_agents (user_id, quality_score DESC NULLS LAST) WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_quality;
ALTER INDEX IF EXISTS public.idx_user_agents_quality_3 RENAME TO idx_user_agents_quality;

DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_user_status_last_used_4;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_user_status_last_used_3
    ON public.user_agents (user_id, status, last_used_at DESC NULLS LAST) WHERE deleted_at IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_user_status_last_used;
ALTER INDEX IF EXISTS public.idx_user_agents_user_status_last_used_3 RENAME TO idx_user_agents_user_status_last_used;

-- squawk-ignore prefer-robust-stmts -- repeated, it changes nothing
ALTER TABLE public.user_agents RESET (fillfactor, autovacuum_vacuum_cost_limit);

DO $comments$
BEGIN
    COMMENT ON INDEX public.idx_user_agents_last_used IS 'Finds the live rows that a user used last.';
    COMMENT ON INDEX public.idx_user_agents_usage_count IS 'Finds the live rows that a user used most.';
    COMMENT ON INDEX public.idx_user_agents_quality IS 'Finds the live rows of a user with the best score.';
    COMMENT ON INDEX public.idx_user_agents_user_status_last_used IS 'Finds the live rows of a user with a status, the last used first.';
END
$comments$;
