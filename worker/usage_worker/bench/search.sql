-- Agents with vectors, and what is searched among them.

-- name: make_centres
-- The topics of the agents: 60 directions, of which a vector mixes two.
CREATE UNLOGGED TABLE public.bench_centres AS
SELECT k, ARRAY(SELECT (random() + random() + random() - 1.5)::real FROM generate_series(1, 384) WHERE k >= 0) AS v
  FROM generate_series(0, 59) AS k

-- name: fill_agents
-- One agent in twenty is inactive, one in a hundred has the status beta; descriptions have 300 characters.
WITH owners AS (
    INSERT INTO auth.users (id) SELECT md5('owner ' || i)::uuid FROM generate_series(0, 999) AS i
)
INSERT INTO public.agents (id, name, description, created_by, is_active, status)
SELECT md5('agent ' || i)::uuid,
       initcap(topics[1 + mod(i, 12)]) || ' ' || kinds[1 + mod(i / 12, 7)] || ' ' || i,
       'Helps teams with ' || topics[1 + mod(i, 12)] || '; '
       || repeat('reads documents, answers questions and writes reports in clear words, ', 4) || md5(i::text),
       md5('owner ' || mod(i, 1000))::uuid, mod(i, 20) <> 0, CASE WHEN mod(i, 100) = 1 THEN 'beta' ELSE 'stable' END
  FROM generate_series(1, %(agents)s::integer) AS i,
       (SELECT '{invoice,travel,legal,garden,music,kitchen,weather,sales,hiring,astronomy,law,tax}'::text[] AS topics,
               '{assistant,planner,writer,checker,translator,coach,finder}'::text[] AS kinds) AS words

-- name: fill_embeddings
-- Mixtures of two topics and noise.
INSERT INTO public.agent_embeddings (agent_id, model, dimension, embedding, content_hash)
SELECT id, 'bench', 384, ARRAY(SELECT (x / norm)::real FROM unnest(raw) AS x), sha256('')
  FROM (
    SELECT id, raw, sqrt((SELECT sum(x ^ 2) FROM unnest(raw) AS x)) AS norm
      FROM (
        SELECT a.id, ARRAY(SELECT 0.6 * x + 0.4 * y + random() + random() + random() - 1.5 FROM unnest(c.v, d.v) AS p (x, y)) AS raw
          FROM public.agents AS a
          JOIN public.bench_centres AS c ON c.k = mod(abs(hashtext(a.id::text)::bigint), 60)
          JOIN public.bench_centres AS d ON d.k = mod(abs(hashtext(a.name)::bigint), 60)
    ) AS drawn
    OFFSET 0
) AS measured

-- name: vacuum_agents
VACUUM ANALYZE

-- name: select_query_vectors
-- What is searched: vectors of agents with more noise, so that they are of no agent.
SELECT ARRAY(SELECT (x + (random() + random() + random() - 1.5) / 20)::real FROM unnest(e.embedding) AS x) AS vector
  FROM public.agent_embeddings AS e ORDER BY md5(e.agent_id::text) LIMIT %(queries)s

-- name: nearest_agents
-- The nearest ones by comparing all that a user sees.
SELECT e.agent_id
  FROM public.agent_embeddings AS e JOIN public.agents AS a ON a.id = e.agent_id
 WHERE a.is_active AND (%(status)s::text IS NULL OR a.status = %(status)s)
 ORDER BY (e.embedding::vector(384) <=> %(vector)s::real[]::vector(384)) + 0
 LIMIT 10
