ALTER TABLE public.agent_usage_hour_marks REPLICA IDENTITY DEFAULT;
