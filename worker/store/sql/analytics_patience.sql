-- No setting of a role may cut a long refresh short. One that somebody runs by hand is not waited for, but autovacuum
-- is, which gives way when it was waited for as long as deadlock_timeout, a second.
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = '5s';
-- One core is enough: it is not urgent, and ingest needs the others.
SET LOCAL max_parallel_workers_per_gather = 0
