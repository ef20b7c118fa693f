-- Where the rows are that are due, in chunks, in the order of the table: each page is then written once and not as often
-- as it holds such a row, and so is its image in the WAL. The oldest million at most; the next look finds the others.
SELECT array_agg(place)::text AS places
  FROM (SELECT place, (row_number() OVER (ORDER BY place) - 1) / %(rows)s AS chunk
          FROM (SELECT ctid AS place FROM public.user_agents
                 WHERE deleted_at <= now() - %(older_than)s::interval
                 ORDER BY deleted_at LIMIT 1000000) AS due) AS numbered
 GROUP BY chunk ORDER BY chunk
