-- What the books say of the days that are over, for longer than a transaction can last.
SELECT day, sum(accepted) AS accepted, sum(applied) AS applied, sum(applied + duplicate + quarantined) AS parts
  FROM public.usage_intake
 WHERE day < ((now() - interval '1 hour') AT TIME ZONE 'UTC')::date AND day BETWEEN %(first)s AND %(last)s
 GROUP BY day ORDER BY day
