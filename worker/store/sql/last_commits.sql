-- Seconds since a batch of each stream was last committed. By the database's clock, which wrote the times.
SELECT stream, extract(epoch FROM clock_timestamp() - max(booked_at))::float8 AS seconds
  FROM public.usage_intake
 GROUP BY stream
