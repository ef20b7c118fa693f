-- On which day a conversation was first seen is known to nobody else. So the days keep what they have as far as it
-- goes, from the oldest on, and the newest has the rest.
WITH days AS (
    SELECT d.user_id, d.agent_id, d.day, d.conversation_count,
           sum(d.conversation_count) OVER upwards AS reached,
           lead(d.day) OVER upwards IS NULL AS is_newest,
           sum(d.conversation_count) OVER (PARTITION BY d.user_id, d.agent_id) + x.added[11] AS wanted
      FROM public.usage_daily d JOIN differing x USING (user_id, agent_id)
     WHERE x.holder IS NOT NULL AND x.added[11] <> 0
    WINDOW upwards AS (PARTITION BY d.user_id, d.agent_id ORDER BY d.day)
)
UPDATE public.usage_daily d SET
    conversation_count = CASE WHEN days.is_newest THEN days.wanted ELSE least(days.reached, days.wanted) END
                         - least(days.reached - days.conversation_count, days.wanted)
  FROM days
 WHERE d.user_id = days.user_id AND d.agent_id = days.agent_id AND d.day = days.day
