-- How often conversations went with their pair, transactions that are still open included.
SELECT last_value + is_called::integer FROM public.usage_ended_lives
