-- The role of Grafana's data source, made after `usage-worker migrate up`, with its password.
\set ON_ERROR_STOP on
\set boards_password `cat /run/secrets/boards_password`
\ir boards_role.sql
ALTER ROLE usage_boards PASSWORD :'boards_password';
