-- Which of these events the ledger has already. The time bounds spare the partitions that cannot hold them.
SELECT e.event_id, e.occurred_at
  FROM unnest(%(ids)s::uuid[], %(times)s::timestamptz[]) AS b (event_id, occurred_at)
  JOIN public.usage_events e USING (event_id, occurred_at)
 WHERE e.occurred_at BETWEEN %(oldest)s AND %(newest)s
