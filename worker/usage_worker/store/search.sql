-- Search over agents: the models, the vectors of agents, and pgvector's indexes on them.

-- name: search_agents
-- As a user after act_as_user, or with this role's rights. An agent of a platform may have no name.
SELECT rank, agent_id, coalesce(name, '') AS name, score, similarity, matched_by, is_close
  FROM public.search_agents(
    p_query => %(vector)s::real[], p_query_text => %(text)s, p_k => %(k)s, p_filters => %(filters)s::jsonb, p_model => %(model)s)

-- name: embedding_models
-- Every model.
SELECT model, dimension, state, is_default FROM public.agent_embedding_models ORDER BY model

-- name: add_embedding_model
-- Another process may add it at the same moment. A retired one is filled again: a run that is killed then leaves it counted.
INSERT INTO public.agent_embedding_models AS m (model, dimension) VALUES (%(model)s, %(dimension)s)
ON CONFLICT (model) DO UPDATE SET state = 'filling' WHERE m.state = 'retired' AND m.dimension = excluded.dimension

-- name: set_model_ready
-- The first model that is ready becomes the default.
UPDATE public.agent_embedding_models m
   SET state = 'ready',
       is_default = m.is_default OR NOT EXISTS (SELECT FROM public.agent_embedding_models o WHERE o.is_default)
 WHERE m.model = %(model)s

-- name: clear_default_model
-- By itself and first: the unique index is checked with each row.
UPDATE public.agent_embedding_models SET is_default = false WHERE is_default AND model <> %(model)s

-- name: set_default_model
-- Only a ready model.
UPDATE public.agent_embedding_models SET is_default = true WHERE model = %(model)s AND state = 'ready'

-- name: retire_model
-- Its vectors are deleted with the next statement.
UPDATE public.agent_embedding_models SET state = 'retired', is_default = false WHERE model = %(model)s

-- name: delete_embeddings
-- The vectors of a retired model.
DELETE FROM public.agent_embeddings WHERE model = %(model)s

-- name: agent_texts
-- Begins a statement: the text of each agent that is embedded, and its hash. A scan of all agents instead of a trigger, since
-- the table may be the platform's: 0.2 s for 100,000 agents. A platform's table may lack the description: it is then the
-- column of `missing`.
WITH texts AS (
    SELECT id, text, sha256(convert_to(text, 'UTF8')) AS content_hash
      FROM (SELECT NULL::text AS description) AS missing
     CROSS JOIN LATERAL (
        SELECT a.id, concat_ws('. ', nullif(btrim(a.name::text), ''), nullif(btrim(description::text), '')) AS text
          FROM public.agents AS a
      ) AS a
)

-- name: stale_agents
-- After agent_texts: agents without a vector of their present text. A text that failed waits until its next attempt. No more
-- than `longest` characters: any model reads less, of which 256 to 8,192 pieces of words are usual, and a service refuses more.
SELECT t.id AS agent_id, left(t.text, %(longest)s) AS text, t.content_hash
  FROM texts AS t
  LEFT JOIN public.agent_embeddings AS e ON e.agent_id = t.id AND e.model = %(model)s
  LEFT JOIN public.agent_embedding_failures AS f
    ON f.agent_id = t.id AND f.model = %(model)s AND f.content_hash = t.content_hash AND f.next_try_at > now()
 WHERE e.content_hash IS DISTINCT FROM t.content_hash AND f.agent_id IS NULL
 LIMIT %(limit)s

-- name: store_embeddings
-- In the order of the key, so that two processes wait for each other instead of deadlocking; without agents that were
-- deleted meanwhile. The foreign key locks those of new vectors, with the rights of their table's owner: a lock of ours
-- would need more than the SELECT that a platform grants on it.
WITH given AS (
    SELECT g.agent_id, g.content_hash, g.embedding::real[] AS embedding
      FROM unnest(%(agents)s::uuid[], %(hashes)s::bytea[], %(embeddings)s::text[]) AS g (agent_id, content_hash, embedding)
), mended AS (
    DELETE FROM public.agent_embedding_failures
     WHERE model = %(model)s AND agent_id = ANY (%(agents)s::uuid[])
)
INSERT INTO public.agent_embeddings AS e (agent_id, model, dimension, embedding, content_hash, embedded_at)
SELECT g.agent_id, m.model, m.dimension, g.embedding, g.content_hash, now()
  FROM given AS g JOIN public.agents AS a ON a.id = g.agent_id
  JOIN public.agent_embedding_models AS m ON m.model = %(model)s
 ORDER BY g.agent_id
ON CONFLICT (agent_id, model) DO UPDATE
   SET embedding = excluded.embedding, content_hash = excluded.content_hash, embedded_at = excluded.embedded_at

-- name: set_aside
-- A text that cannot be embedded: tried again after 2, 4, 8 … minutes, at most a day, each time up to a tenth later, so
-- that many do not come back at once. The old vector, if there is one, would stand for another text.
WITH outdated AS (
    DELETE FROM public.agent_embeddings
     WHERE agent_id = %(agent_id)s AND model = %(model)s AND content_hash <> %(content_hash)s
)
INSERT INTO public.agent_embedding_failures AS f (agent_id, model, content_hash, next_try_at, error)
SELECT a.id, %(model)s, %(content_hash)s, now() + interval '2 minutes' * (1 + random() / 10), %(error)s
  FROM public.agents AS a WHERE a.id = %(agent_id)s
ON CONFLICT (agent_id, model) DO UPDATE
   SET attempts = CASE WHEN f.content_hash = excluded.content_hash THEN f.attempts + 1 ELSE 1 END,
       next_try_at = CASE
           WHEN f.content_hash = excluded.content_hash
           THEN now() + least(interval '1 day', interval '2 minutes' * 2 ^ least(f.attempts, 10)) * (1 + random() / 10)
           ELSE excluded.next_try_at
       END,
       content_hash = excluded.content_hash,
       error = excluded.error

-- name: embedding_status
-- After agent_texts: what each model has, and lacks. `pending` has no vector of its present text and no failure, `failed`
-- waits for its next attempt.
SELECT m.model, m.dimension, m.state, m.is_default,
       count(t.id) AS agents,
       count(*) FILTER (WHERE e.content_hash = t.content_hash) AS embedded,
       count(*) FILTER (WHERE e.content_hash IS DISTINCT FROM t.content_hash AND f.agent_id IS NOT NULL) AS failed,
       count(*) FILTER (WHERE e.content_hash IS DISTINCT FROM t.content_hash AND f.agent_id IS NULL AND t.id IS NOT NULL) AS pending
  FROM public.agent_embedding_models AS m
  LEFT JOIN texts AS t ON m.state <> 'retired'
  LEFT JOIN public.agent_embeddings AS e ON e.agent_id = t.id AND e.model = m.model
  LEFT JOIN public.agent_embedding_failures AS f
    ON f.agent_id = t.id AND f.model = m.model AND f.content_hash = t.content_hash
 GROUP BY m.model
 ORDER BY m.model

-- name: agent_quality_is_due
-- Once a UTC day: a quality that moved the moment a colleague rated an agent would tell how.
SELECT coalesce((now() AT TIME ZONE 'UTC')::date > (max(q.computed_at) AT TIME ZONE 'UTC')::date, true) AS is_due
  FROM public.agent_search_quality AS q

-- name: refresh_agent_quality
-- Agents with at least 5 users who have used them, and 20 uses or 5 ratings; drawn to the mean of all agents as if 10 users
-- more had found it; rounded, so that no single user's score can be told from it.
WITH agents AS (
    SELECT agent_id, avg(quality_score) AS quality, count(*) AS users
      FROM public.user_agents
     WHERE usage_count > 0 AND quality_score IS NOT NULL AND deleted_at IS NULL
     GROUP BY agent_id
    HAVING count(*) >= 5 AND (sum(usage_count) >= 20 OR count(user_rating) >= 5)
), differences AS (
    SELECT agent_id,
           (0.02 * round((quality - avg(quality) OVER ()) / 5 * users / (users + 10) / 0.02))::real AS difference
      FROM agents
), gone AS (
    DELETE FROM public.agent_search_quality AS q
     WHERE NOT EXISTS (SELECT FROM differences AS d WHERE d.agent_id = q.agent_id)
)
INSERT INTO public.agent_search_quality AS q (agent_id, difference)
SELECT agent_id, difference FROM differences ORDER BY agent_id
ON CONFLICT (agent_id) DO UPDATE SET difference = excluded.difference, computed_at = now()

-- name: pgvector
-- Whether searches need the extension: above so many agents; the version that is installed or can be; where it is or belongs,
-- as platforms keep extensions out of the schema that their API shows; and whether users may use it there.
SELECT (SELECT count(*) FROM (SELECT FROM public.agents LIMIT %(agents)s + 1) AS counted) > %(agents)s AS needed,
       e.extname IS NOT NULL AS installed,
       string_to_array(coalesce(e.extversion, v.default_version), '.')::integer[] >= '{0,8}' AS is_new_enough,
       n.nspname::text AS schema,
       has_schema_privilege('authenticated', n.oid, 'USAGE') AS is_open
  FROM pg_namespace AS n
  LEFT JOIN pg_extension AS e ON e.extname = 'vector'
  LEFT JOIN pg_available_extensions AS v ON v.name = 'vector'
 WHERE n.oid = coalesce(e.extnamespace, to_regnamespace('extensions'), 'public'::regnamespace)

-- name: create_pgvector
-- Where it is not a trusted extension, only a superuser may.
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA {schema}

-- name: vector_indexes
-- The index of each model: `name` is what it has or would have, `valid` NULL where there is none. Indexes of models that are
-- gone have no dimension. Counting stops above the number from which search uses an index.
SELECT coalesce(w.name, i.relname::text) AS name, w.model, w.dimension, x.indisvalid AS valid,
       w.state IS DISTINCT FROM 'retired' AND w.rows > %(rows)s AS wanted,
       coalesce(w.state, 'retired') = 'retired' AS retired, n.nspname AS schema
  FROM (
    SELECT 'agent_embeddings_hnsw_' || left(md5(m.model), 12) AS name, m.model, m.dimension, m.state,
           (SELECT count(*) FROM (
                SELECT FROM public.agent_embeddings AS e WHERE e.model = m.model LIMIT %(rows)s + 1) AS counted) AS rows
      FROM public.agent_embedding_models AS m
  ) AS w
  FULL JOIN (
    SELECT c.relname, c.oid FROM pg_index AS o JOIN pg_class AS c ON c.oid = o.indexrelid
     WHERE o.indrelid = 'public.agent_embeddings'::regclass AND c.relname LIKE 'agent\_embeddings\_hnsw\_%%'
  ) AS i ON i.relname = w.name
  LEFT JOIN pg_index AS x ON x.indexrelid = i.oid
  LEFT JOIN pg_extension AS v ON v.extname = 'vector'
  LEFT JOIN pg_namespace AS n ON n.oid = v.extnamespace

-- name: create_vector_index
-- Halves: 11 instead of 20 bytes for each 4 of the table, at equal recall.
CREATE INDEX CONCURRENTLY {index} ON public.agent_embeddings
 USING hnsw ((embedding::{schema}.halfvec({dimension})) {schema}.halfvec_cosine_ops) WHERE model = {model}

-- name: drop_vector_index
-- What a killed build left is invalid, and a build does not go on where it stopped.
DROP INDEX CONCURRENTLY IF EXISTS public.{index}
