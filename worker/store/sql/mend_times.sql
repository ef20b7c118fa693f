-- First and last use by the events of the day. The events of a day cannot tell one life from another, so where there
-- was another one they only say what is not known.
UPDATE public.user_agents ua SET
    first_used_at = CASE WHEN x.ended THEN coalesce(ua.first_used_at, x.first_used_at)
                         ELSE least(ua.first_used_at, x.first_used_at) END,
    last_used_at = CASE WHEN x.ended THEN coalesce(ua.last_used_at, x.last_used_at)
                        ELSE greatest(ua.last_used_at, x.last_used_at) END
  FROM differing x
 WHERE ua.id = x.holder AND x.added[1] > 0
