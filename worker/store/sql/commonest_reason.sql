-- Why most of the newest letters that wait for a replay were quarantined. Nothing prunes the letters and a reason may be
-- long, so only the newest letters and the beginnings of their reasons are read.
SELECT left(reason, 500) AS reason, sum(events)::bigint AS events, sum(sum(events)) OVER ()::bigint AS total
  FROM (
      SELECT reason, events, replayed_at FROM public.usage_dead_letters ORDER BY id DESC LIMIT %(newest)s
  ) AS newest
 WHERE replayed_at IS NULL
 GROUP BY 1
 ORDER BY 2 DESC, 1
 LIMIT 1
