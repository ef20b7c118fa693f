-- Whom a benchmark asks for: first those with the most agents, then as many of all the others.
SELECT user_id
  FROM (
    SELECT user_id, row_number() OVER (ORDER BY count(*) DESC, user_id) AS place
      FROM public.user_agents GROUP BY user_id
) AS owners
 ORDER BY place > %(half)s, user_id
 LIMIT 2 * %(half)s
