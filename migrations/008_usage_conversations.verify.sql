SELECT * FROM (VALUES
    ('column', 'user_agent_conversations.agent_id', 'uuid not null'),
    ('column', 'user_agent_conversations.conversation_id', 'uuid not null'),
    ('column', 'user_agent_conversations.user_id', 'uuid not null'),
    ('constraint', 'user_agent_conversations.user_agent_conversations_pkey', 'PRIMARY KEY (user_id, agent_id, conversation_id)'),
    ('grant', 'table user_agent_conversations to service_role', 'select'),
    ('index', 'user_agent_conversations_pkey', 'CREATE UNIQUE INDEX user_agent_conversations_pkey ON public.user_agent_conversations USING btree (user_id, agent_id, conversation_id)'),
    ('policy', 'user_agent_conversations.user_agent_conversations_service_role', 'select to service_role using true'),
    ('table', 'user_agent_conversations', 'table, row-level security on, autovacuum_vacuum_cost_limit=2000'),
    ('table', 'user_agent_conversations_kept_4_0_0', NULL)
) AS expected (kind, object, definition)
