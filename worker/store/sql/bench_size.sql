-- Bytes of a row, with the free room in its page, and of its entries in all indexes.
SELECT pg_table_size('public.user_agents') / count(*) AS bytes_per_row,
       pg_indexes_size('public.user_agents') / count(*) AS index_bytes_per_row
  FROM public.user_agents
