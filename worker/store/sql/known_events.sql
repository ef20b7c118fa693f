-- Which of these events the ledger has already, by their place in the question. The time bounds spare the partitions
-- that cannot hold them.
SELECT b.place
  FROM unnest(%(ids)s::uuid[], %(times)s::timestamptz[]) WITH ORDINALITY AS b (event_id, occurred_at, place)
  JOIN public.usage_events e USING (event_id, occurred_at)
 WHERE e.occurred_at BETWEEN %(oldest)s AND %(newest)s
