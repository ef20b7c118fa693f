-- version: 5.2.0
-- lock_timeout: 100ms
--
-- A publication FOR ALL TABLES, as Debezium makes, no longer keeps marks from being deleted: of a published table without a
-- replica identity PostgreSQL refuses every DELETE, and this one has no key (028 says why).

ALTER TABLE public.agent_usage_hour_marks REPLICA IDENTITY FULL;
