-- squawk-disable-assume-in-transaction
-- squawk-ignore-file ban-drop-constraint, ban-drop-function -- a rollback removes what the upgrade created

DROP TRIGGER IF EXISTS user_agents_check_new_contents ON public.user_agents;
DROP TRIGGER IF EXISTS user_agents_check_contents ON public.user_agents;
DROP FUNCTION IF EXISTS public.user_agents_check_contents();
ALTER TABLE public.user_agents
    DROP CONSTRAINT IF EXISTS user_agents_usage_count_check,
    DROP CONSTRAINT IF EXISTS user_agents_message_count_check,
    DROP CONSTRAINT IF EXISTS user_agents_conversation_count_check,
    DROP CONSTRAINT IF EXISTS user_agents_success_count_check,
    DROP CONSTRAINT IF EXISTS user_agents_error_count_check,
    DROP CONSTRAINT IF EXISTS user_agents_total_tokens_used_check,
    DROP CONSTRAINT IF EXISTS user_agents_total_cost_usd_check,
    DROP CONSTRAINT IF EXISTS user_agents_response_time_total_ms_check,
    DROP CONSTRAINT IF EXISTS user_agents_response_time_samples_check,
    DROP CONSTRAINT IF EXISTS user_agents_avg_response_time_ms_check,
    DROP CONSTRAINT IF EXISTS user_agents_user_rating_check,
    DROP CONSTRAINT IF EXISTS user_agents_quality_score_check,
    DROP CONSTRAINT IF EXISTS user_agents_custom_temperature_check,
    DROP CONSTRAINT IF EXISTS user_agents_custom_max_tokens_check,
    DROP CONSTRAINT IF EXISTS user_agents_display_position_check,
    DROP CONSTRAINT IF EXISTS user_agents_status_check,
    DROP CONSTRAINT IF EXISTS user_agents_source_check;
