-- The roles behind the columns of the table.
CREATE ROLE access_test_other;
CREATE ROLE access_test_granted IN ROLE authenticated;
GRANT ALL ON ALL TABLES IN SCHEMA public TO access_test_granted;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO access_test_granted;
GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO access_test_granted;
-- Members inherit the privileges of a role, but not BYPASSRLS.
CREATE ROLE access_test_service IN ROLE service_role;
CREATE ROLE access_test_ingest IN ROLE usage_ingest;
