-- The login roles of worker_url and serve_url (docs/operations.md, "Roles"), with the passwords of the folder that
-- deploy/new-secrets made. Run it after each `usage-worker migrate up`, which makes the roles that they belong to, as
-- docker-compose.yml does; a new password in its file applies from then on. On another machine:
--
--   USAGE_SECRETS=FOLDER psql -X -q -f deploy/roles.sql "$(cat FOLDER/owner_url)"
\set ON_ERROR_STOP on
\set worker_password `cat "${USAGE_SECRETS:-/run/secrets}/worker_password"`
\set serve_password `cat "${USAGE_SECRETS:-/run/secrets}/serve_password"`

SELECT format('CREATE ROLE %I LOGIN IN ROLE %I', login, granted)
  FROM (VALUES ('usage_worker', 'usage_ingest'), ('usage_serve', 'service_role')) AS wanted (login, granted)
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login)
\gexec
ALTER ROLE usage_worker PASSWORD :'worker_password';
ALTER ROLE usage_serve PASSWORD :'serve_password';

-- USAGE_UNKNOWN=create needs one right more.
\set unknown `echo "$USAGE_UNKNOWN"`
SELECT :'unknown' = 'create' AS creates \gset
\if :creates
GRANT EXECUTE ON FUNCTION public.usage_create_parents TO usage_worker;
\else
REVOKE EXECUTE ON FUNCTION public.usage_create_parents FROM usage_worker;
\endif
