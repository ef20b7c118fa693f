-- Whether row-level security hides nothing from this role; hidden rows look like rows that are not there.
SELECT NOT bool_or(row_security_active(name)) AS sees_all
  FROM unnest(ARRAY[
           'public.user_agents', 'public.usage_events', 'public.usage_daily', 'public.usage_past_daily',
           'public.user_agent_conversations'
       ]) AS name
