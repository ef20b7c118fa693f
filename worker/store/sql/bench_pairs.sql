-- Who has which agent: every fiftieth user about 200, the others up to 33; one pair in four was never used. In random
-- order, as a table grows by use: a user's rows lie in different pages. `chance` decides by its remainders what a row
-- holds; they are those of different primes, so that one property says nothing about another.
WITH pairs AS (
    INSERT INTO public.bench_pairs (user_id, agent_id, chance, added_at, last_used_at, uses)
    SELECT md5('user ' || owner)::uuid, md5('agent ' || mod(owner + n, 500))::uuid, chance, added_at,
           CASE WHEN uses > 0 THEN added_at + mod(chance, 101) / 101.0 * (now() - added_at) END, uses
      FROM generate_series(1, %(rows)s::integer / 20) AS owner
     CROSS JOIN LATERAL generate_series(1, CASE WHEN mod(owner, 50) = 0 THEN 200 ELSE 1 + mod(owner, 33) END) AS n
     CROSS JOIN LATERAL (SELECT hashint8(1000::bigint * owner + n) & 2147483647 AS chance) AS drawn
     CROSS JOIN LATERAL (
        SELECT now() - mod(chance, 31536000) * interval '1 second' AS added_at,
               CASE WHEN mod(chance, 13) >= 3 THEN 2000 / (1 + mod(chance, 97)) ELSE 0 END AS uses
    ) AS derived
     ORDER BY chance, owner, n
     LIMIT %(rows)s
    RETURNING 1
)
SELECT count(*) AS rows FROM pairs
