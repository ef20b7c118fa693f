-- Sessions of the runner and the lock that lets only one run.

-- name: session_settings
-- Role and database settings must not end a long statement or change how names resolve; IF EXISTS needs no notice.
SET client_encoding = 'UTF8';
SET search_path = public;
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET idle_session_timeout = 0;
SET client_min_messages = warning;

-- name: try_lock
SELECT pg_try_advisory_lock(%s)

-- name: end_orphans
SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
 WHERE datname = current_database() AND usename = current_user AND application_name = %s
