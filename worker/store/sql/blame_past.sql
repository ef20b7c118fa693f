-- Whose sums are wrong, where a pair had several lives? Those of the life that goes on are believed when its counters
-- and its days agree; those of a life that is not there, or that has less than is too much, cannot be wrong. Ended lives
-- cannot have less than nothing.
UPDATE differing x SET blames_past = true
  FROM (
    SELECT d.user_id, d.agent_id, coalesce(living.usage_count, 0) AS living, coalesce(past.usage_count, 0) AS past
      FROM differing d
      LEFT JOIN public.usage_daily living
        ON living.user_id = d.user_id AND living.agent_id = d.agent_id AND living.day = %(day)s
      LEFT JOIN public.usage_past_daily past
        ON past.user_id = d.user_id AND past.agent_id = d.agent_id AND past.day = %(day)s
  ) AS uses
 WHERE x.user_id = uses.user_id AND x.agent_id = uses.agent_id
   AND uses.past + x.expected[1] - x.found[1] >= 0
   AND (x.holder IS NULL OR (x.ended AND x.settled) OR uses.living + x.expected[1] - x.found[1] < 0)
