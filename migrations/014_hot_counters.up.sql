-- version: 4.0.0
-- transaction: off
-- lock_timeout: 15min
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file renaming-object -- only indexes are renamed, and no client names one
--
-- Every event changes last_used_at, usage_count and quality_score. With ordinary indexes on them each update is a write
-- to all 23; PostgreSQL >= 16 lets an update stay in its page (HOT) where BRIN indexes alone are concerned. The rows
-- of one user are few: they are found by user_id and sorted.
-- Leaves space in every page for new versions of its rows; pages that are full gain it as their rows are updated. While
-- an ANALYZE of autovacuum runs, dead versions cannot be removed: throttled as by default it takes 20 to 50 s beside a
-- purge, with this limit up to 7.
-- squawk-ignore prefer-robust-stmts -- repeated, it changes nothing
ALTER TABLE public.user_agents SET (fillfactor = 50, autovacuum_vacuum_cost_limit = 2000);

-- Each new index is built before the old one of its name is dropped; a rollback that stopped may have left a _3 index.
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_last_used_3;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_last_used_4 ON public.user_agents USING brin (last_used_at);
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_last_used;
ALTER INDEX IF EXISTS public.idx_user_agents_last_used_4 RENAME TO idx_user_agents_last_used;

DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_usage_count_3;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_usage_count_4 ON public.user_agents USING brin (usage_count);
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_usage_count;
ALTER INDEX IF EXISTS public.idx_user_agents_usage_count_4 RENAME TO idx_user_agents_usage_count;

DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_quality_3;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_quality_4 ON public.user_agents USING brin (quality_score);
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_quality;
ALTER INDEX IF EXISTS public.idx_user_agents_quality_4 RENAME TO idx_user_agents_quality;

DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_user_status_last_used_3;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_user_agents_user_status_last_used_4
    ON public.user_agents USING brin (user_id, status, last_used_at);
DROP INDEX CONCURRENTLY IF EXISTS public.idx_user_agents_user_status_last_used;
ALTER INDEX IF EXISTS public.idx_user_agents_user_status_last_used_4 RENAME TO idx_user_agents_user_status_last_used;

-- 011 added columns and 013 filled the roll-up; autovacuum would come to them a minute later, or much later.
ANALYZE public.user_agents, public.usage_daily;

-- Changes no row and blocks no client.
DO $comments$
BEGIN
    COMMENT ON INDEX public.idx_user_agents_last_used IS 'Finds pages by the time of the last use; a BRIN index, so that an event need not write it.';
    COMMENT ON INDEX public.idx_user_agents_usage_count IS 'Finds pages by the number of uses; a BRIN index, so that an event need not write it.';
    COMMENT ON INDEX public.idx_user_agents_quality IS 'Finds pages by the score; a BRIN index, so that an event need not write it.';
    COMMENT ON INDEX public.idx_user_agents_user_status_last_used IS 'Finds pages by user, status and time of the last use; a BRIN index, so that an event need not write it.';
END
$comments$;
