-- Sessions of the runner, and the lock that lets only one runner work.

-- name: session_settings
-- Settings of the role or database must not end a long statement or change how names resolve. IF EXISTS prints notices
-- otherwise. One core, since a migration is not urgent and clients need the others.
SET client_encoding = 'UTF8';
SET search_path = public;
SET "DateStyle" = 'ISO,MDY';
SET "IntervalStyle" = 'postgres';
SET "TimeZone" = 'UTC';
SET standard_conforming_strings = on;
SET bytea_output = 'hex';
SET extra_float_digits = 1;
SET array_nulls = on;
SET transform_null_equals = off;
SET quote_all_identifiers = off;
SET exit_on_error = off;
SET row_security = on;
SET default_transaction_isolation = 'read committed';
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET idle_session_timeout = 0;
-- PostgreSQL 17 and newer.
DO $limit$ BEGIN
    IF current_setting('transaction_timeout', true) <> '0' THEN
        SET transaction_timeout = 0;
    END IF;
END $limit$;
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
SET max_parallel_maintenance_workers = 0;
-- Without triggers and foreign keys, which a role may have switched off, steps that write rows would not be complete.
DO $origin$ BEGIN
    IF current_setting('session_replication_role') <> 'origin' THEN
        SET session_replication_role = origin;
    END IF;
END $origin$;

-- name: session
-- The server process of this session; a pooler reports another one at login, and may give the same one to others.
SELECT pg_backend_pid()

-- name: try_lock
-- Polled, because a statement that waits for the lock would hold a snapshot, which CREATE INDEX CONCURRENTLY waits for.
SELECT pg_try_advisory_lock(%s)

-- name: end_orphans
-- Sessions of a killed runner, whose statements the server may still execute.
SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
 WHERE datname = current_database() AND usename = current_user AND application_name = %s

-- name: invalid_index
-- An index whose concurrent build was interrupted.
SELECT indexrelid FROM pg_index WHERE indexrelid = to_regclass(%s) AND NOT indisvalid
