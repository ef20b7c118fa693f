-- version: 5.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file prefer-bigint-over-int -- attempts, and elements of a vector
--
-- Search over agents: by vectors, words and names. Vectors are real[], so the schema is the same with and without pgvector,
-- which only makes search faster: a periodic task then builds an index for each model with many agents.

CREATE TABLE public.agent_embedding_models (
    model text COLLATE "C" PRIMARY KEY CHECK (char_length(model) BETWEEN 1 AND 255),
    dimension integer NOT NULL CHECK (dimension BETWEEN 1 AND 16000),
    template integer NOT NULL DEFAULT 1 CHECK (template >= 1),
    query_prefix text NOT NULL DEFAULT '' CHECK (char_length(query_prefix) <= 255),
    state text NOT NULL DEFAULT 'filling' CHECK (state IN ('filling', 'ready', 'retired')),
    is_default boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- For the foreign key of a vector, which then has its model's dimension.
    UNIQUE (model, dimension),
    CONSTRAINT agent_embedding_models_default_check CHECK (NOT is_default OR state = 'ready')
);
CREATE UNIQUE INDEX agent_embedding_models_default ON public.agent_embedding_models (is_default) WHERE is_default;

-- The sum of squares is NaN or infinite where an element is, and NaN differs from 1 by NaN, which is greater than all numbers.
CREATE FUNCTION public.agent_embedding_is_unit(p_embedding real[]) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(abs(sum(x::float8 * x) - 1) < 0.001 AND count(x) = count(*), false) FROM unnest(p_embedding) AS x
$$;

CREATE TABLE public.agent_embeddings (
    agent_id uuid NOT NULL REFERENCES public.agents (id) ON DELETE CASCADE,
    model text COLLATE "C" NOT NULL,
    dimension integer NOT NULL,
    embedding real[] NOT NULL,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    embedded_at timestamptz NOT NULL DEFAULT now(),
    -- Begins with the agent, for the foreign key; the one of the models has the other index.
    PRIMARY KEY (agent_id, model),
    FOREIGN KEY (model, dimension) REFERENCES public.agent_embedding_models (model, dimension) ON DELETE CASCADE,
    CONSTRAINT agent_embeddings_embedding_check CHECK (
        array_ndims(embedding) = 1 AND array_length(embedding, 1) = dimension AND public.agent_embedding_is_unit(embedding))
);
CREATE INDEX agent_embeddings_model ON public.agent_embeddings (model, dimension);

CREATE TABLE public.agent_embedding_failures (
    agent_id uuid NOT NULL REFERENCES public.agents (id) ON DELETE CASCADE,
    model text COLLATE "C" NOT NULL REFERENCES public.agent_embedding_models (model) ON DELETE CASCADE,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    attempts integer NOT NULL DEFAULT 1 CHECK (attempts >= 1),
    next_try_at timestamptz NOT NULL,
    error text NOT NULL,
    PRIMARY KEY (agent_id, model)
);
CREATE INDEX agent_embedding_failures_model ON public.agent_embedding_failures (model, next_try_at);

CREATE TABLE public.agent_search_quality (
    agent_id uuid PRIMARY KEY REFERENCES public.agents (id) ON DELETE CASCADE,
    difference real NOT NULL CHECK (difference BETWEEN -1 AND 1),
    computed_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE public.agent_embedding_models ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agent_embeddings ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agent_embedding_failures ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agent_search_quality ENABLE ROW LEVEL SECURITY;

-- The caller's rights decide which agents there are: nothing else of a search tells anything of the others.
CREATE FUNCTION public.search_agents(
    p_query real[] DEFAULT NULL,
    p_query_text text DEFAULT NULL,
    p_k integer DEFAULT 10,
    p_filters jsonb DEFAULT '{}',
    p_model text DEFAULT NULL,
    p_quality_weight double precision DEFAULT 0.05
) RETURNS TABLE (
    rank integer, agent_id uuid, name text, score double precision, similarity double precision, matched_by text[],
    is_close boolean
) LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $body$
#variable_conflict use_column
DECLARE
    -- Up to as many agents all vectors are compared; pgvector's index serves more. Measured with 384 dimensions: exact is
    -- as fast up to there, and filters that leave few agents make an index miss every fourth of the nearest.
    c_exact constant integer := 20000;
    -- Without pgvector a vector takes 0.14 ms.
    c_without_pgvector constant integer := 5000;
    -- As many agents of each ranking are fused. Of the agents with all words, no more have their text parsed: 10,000
    -- characters of it, since one text of a megabyte would fail the search.
    c_depth constant integer := 100;
    -- What names are compared without: ASCII's punctuation, spaces, and the accents that NFKD separates from letters.
    c_ignored constant pg_catalog.text := '[\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u0300-\u036f\u2000-\u206f]';
    v_text pg_catalog.text := nullif(btrim(p_query_text), '');
    v_model record;
    v_norm double precision;
    v_query real[];
    v_filter pg_catalog.text := '';
    v_key pg_catalog.text;
    v_agents pg_catalog.text;
    v_vectors pg_catalog.text := 'SELECT NULL::uuid AS id, NULL::float8 AS similarity WHERE false';
    v_pgvector pg_catalog.text := (
        SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
         WHERE e.extname = 'vector');
    v_count integer;
    v_name pg_catalog.text;
    v_named pg_catalog.text;
    v_words pg_catalog.text[];
    v_worded pg_catalog.text;
BEGIN
    IF p_k IS NULL OR p_k NOT BETWEEN 1 AND 100 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'search_agents: p_k is not between 1 and 100';
    ELSIF p_quality_weight IS NULL OR p_quality_weight NOT BETWEEN 0 AND 0.1 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'search_agents: p_quality_weight is not between 0 and 0.1';
    ELSIF char_length(v_text) > 10000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'search_agents: p_query_text has more than 10,000 characters';
    ELSIF jsonb_typeof(p_filters) IS DISTINCT FROM 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'search_agents: p_filters is not an object';
    END IF;
    FOR v_key IN SELECT jsonb_object_keys(p_filters) LOOP
        v_filter := v_filter || CASE
            WHEN v_key = 'created_by' AND pg_catalog.jsonb_path_exists(p_filters, '$.created_by ? (@ like_regex "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")')
                THEN format(' AND a.created_by = %L::uuid', p_filters ->> v_key)
            WHEN v_key = 'is_active' AND jsonb_typeof(p_filters -> v_key) = 'boolean'
                THEN format(' AND a.is_active = %L::boolean', p_filters ->> v_key)
            WHEN v_key = 'status' AND jsonb_typeof(p_filters -> v_key) = 'string'
                THEN format(' AND a.status = %L', p_filters ->> v_key)
        END;
        IF v_filter IS NULL THEN
            RAISE invalid_parameter_value USING MESSAGE = 'search_agents: p_filters takes created_by (a UUID), is_active (true or false) and status (a text)';
        END IF;
    END LOOP;
    -- A platform's table may lack all columns but id and name: such a column is then that of `missing`.
    v_agents := 'SELECT a.id, a.name, a.description
          FROM (SELECT NULL::text AS description, NULL::uuid AS created_by, NULL::boolean AS is_active, NULL::text AS status) AS missing
         CROSS JOIN LATERAL (
            SELECT g.id, g.name::text AS name, description::text AS description, created_by, is_active, status::text AS status
              FROM public.agents AS g) AS a
         WHERE true' || v_filter;

    IF p_query IS NOT NULL THEN
        SELECT m.model, m.dimension INTO v_model FROM public.agent_embedding_models AS m
         WHERE m.state <> 'retired' AND CASE WHEN p_model IS NULL THEN m.is_default ELSE m.model = p_model END;
        IF NOT FOUND THEN
            RAISE invalid_parameter_value USING MESSAGE = CASE
                WHEN p_model IS NULL THEN 'search_agents: no model is the default; give p_model, or p_query_text alone'
                ELSE 'search_agents: p_model is not a model, or a retired one' END;
        ELSIF array_ndims(p_query) IS DISTINCT FROM 1 OR cardinality(p_query) <> v_model.dimension THEN
            RAISE invalid_parameter_value
                USING MESSAGE = format('search_agents: p_query has not the %s dimensions of the model', v_model.dimension);
        END IF;
        SELECT CASE WHEN count(x) = count(*) THEN sqrt(sum(x::float8 * x)) END INTO v_norm FROM unnest(p_query) AS x;
        -- NaN is greater than infinity.
        IF (v_norm > 0 AND v_norm < 'Infinity') IS NOT TRUE THEN
            RAISE invalid_parameter_value USING MESSAGE = 'search_agents: p_query is zero, or holds NULL, NaN or infinity';
        END IF;
        v_query := ARRAY(SELECT (x / v_norm)::real FROM unnest(p_query) WITH ORDINALITY AS q (x, i) ORDER BY i);

        EXECUTE format('SELECT count(*) FROM (SELECT FROM (%s) AS a LIMIT %s) AS counted', v_agents, c_exact + 1) INTO v_count;
        IF v_pgvector IS NULL AND v_count > c_without_pgvector THEN
            IF v_text IS NULL THEN
                RAISE program_limit_exceeded USING
                    MESSAGE = format('search_agents: more than %s agents need the extension vector (pgvector)', c_without_pgvector),
                    HINT = 'Install the extension, use filters, or give p_query_text.';
            END IF;
            RAISE NOTICE 'search_agents: more than % agents need the extension vector (pgvector); searched by words only', c_without_pgvector;
            v_count := NULL;
        ELSE
            -- A filter that leaves few agents: their vectors. Otherwise the policy of the vectors leaves the same agents.
            v_vectors := CASE WHEN v_filter = '' THEN 'public.agent_embeddings AS e WHERE'
                ELSE format('(%s) AS a JOIN public.agent_embeddings AS e ON e.agent_id = a.id WHERE', v_agents) END;
            v_vectors := CASE
                WHEN v_pgvector IS NULL THEN format(
                    'SELECT n.agent_id AS id, n.similarity
                       FROM (SELECT e.agent_id, (SELECT sum(x::float8 * y) FROM unnest(e.embedding, $1) AS p (x, y)) AS similarity
                               FROM %1$s e.model = %2$L) AS n
                      ORDER BY n.similarity DESC, n.agent_id LIMIT %3$s',
                    v_vectors, v_model.model, c_depth)
                -- + 0: an order that no index has. The similarity is made of the distances that are left; beside the order it
                -- would compute every distance twice.
                WHEN v_count <= c_exact THEN format(
                    'SELECT n.agent_id AS id, 1 - n.distance AS similarity
                       FROM (SELECT e.agent_id, (e.embedding::%4$s.vector(%5$s) OPERATOR(%4$s.<=>) $1::%4$s.vector(%5$s)) + 0 AS distance
                               FROM %1$s e.model = %2$L
                              ORDER BY distance, e.agent_id LIMIT %3$s) AS n',
                    v_vectors, v_model.model, c_depth, v_pgvector, v_model.dimension)
                -- The index holds halves and returns them nearly in order; the similarity is that of the vectors themselves.
                ELSE format(
                    'SELECT n.agent_id AS id, 1 - n.distance AS similarity
                       FROM (SELECT c.agent_id, (c.embedding::%4$s.vector(%5$s) OPERATOR(%4$s.<=>) $1::%4$s.vector(%5$s)) + 0 AS distance
                               FROM (SELECT e.agent_id, e.embedding FROM public.agent_embeddings AS e
                                      WHERE e.model = %2$L %6$s
                                      ORDER BY e.embedding::%4$s.halfvec(%5$s) OPERATOR(%4$s.<=>) $1::%4$s.halfvec(%5$s)
                                      LIMIT %3$s) AS c) AS n
                      ORDER BY n.distance, n.agent_id',
                    NULL, v_model.model, c_depth, v_pgvector, v_model.dimension,
                    CASE WHEN v_filter <> '' THEN format('AND (SELECT true FROM (%s) AS a WHERE a.id = e.agent_id)', v_agents) END)
            END;
            PERFORM set_config('usage_worker.reads_every_agent', (v_filter = '' AND v_count <= c_exact)::text, true);
            IF v_pgvector IS NOT NULL AND v_count > c_exact THEN
                -- Local to the transaction. As settings of the function they would be refused in sessions that have not used
                -- the extension yet.
                PERFORM set_config('hnsw.ef_search', '200', true), set_config('hnsw.iterative_scan', 'relaxed_order', true);
            END IF;
        END IF;
    ELSIF v_text IS NULL THEN
        RETURN;
    END IF;

    v_name := nullif(regexp_replace(lower(normalize(v_text, NFKD)), c_ignored, '', 'g'), '');
    -- Cheap conditions that every match meets come first, since all visible agents are read: to normalise a name takes
    -- 0.01 ms, to parse a text 0.1 ms. The letters of a name in their order, or accents in it:
    v_named := CASE WHEN v_name IS NOT NULL THEN format(
        '(a.name COLLATE "C" ILIKE %L OR octet_length(a.name) <> char_length(a.name))',
        '%' || regexp_replace(regexp_replace(left(v_name, 50), '[^a-z0-9]', '', 'g'), '(.)', '\1%', 'g')) ELSE 'false' END;
    -- The beginnings of the longest words, of which stemming changes at most two letters. Only ASCII is compared without case.
    v_words := ARRAY(
        SELECT '%' || replace(replace(replace(start, '\', '\\'), '%', '\%'), '_', '\_') || '%'
          FROM unnest(tsvector_to_array(to_tsvector(
            CASE WHEN numnode(plainto_tsquery('english', v_text)) > 0 THEN 'english' ELSE 'simple' END::regconfig, v_text))) AS word
         CROSS JOIN LATERAL (SELECT left(word, greatest(3, length(word) - 2)) AS start) AS s
         ORDER BY length(start) DESC, start LIMIT 8);
    v_words := ARRAY(SELECT regexp_replace(w, '[\u00c0-\u058f\u10a0-\u10ff\u1e00-\u1fff]', '_', 'g') FROM unnest(v_words) AS w);
    -- Beside a vector, the descriptions of many agents are not read: the vector stands for them, and 100,000 take four times
    -- as long as their names.
    v_worded := CASE WHEN v_count > c_exact AND cardinality(v_words) > 0 THEN 'a.name COLLATE "C" ILIKE ALL ($3)' ELSE coalesce((
        SELECT string_agg(format('(a.name COLLATE "C" ILIKE %1$L OR a.description COLLATE "C" ILIKE %1$L)', w), ' AND ' ORDER BY i)
          FROM unnest(v_words) WITH ORDINALITY AS p (w, i)), 'false') END;
    RETURN QUERY EXECUTE format(
        $statement$
        WITH near AS MATERIALIZED (%1$s
        ), found AS MATERIALIZED (
            SELECT a.id, a.name, %5$s AS has_words FROM (%2$s) AS a WHERE %4$s OR %5$s
        ), named AS (
            SELECT id, CASE WHEN normal = $2 THEN 2.0 WHEN starts_with(normal, $2) THEN 1.0 ELSE 0.5 END AS weight,
                   row_number() OVER (ORDER BY starts_with(normal, $2) DESC, length(normal), normal, id) AS place
              FROM (SELECT id, regexp_replace(lower(normalize(left(a.name, 255), NFKD)), $4, '', 'g') AS normal
                      FROM found AS a WHERE %4$s OFFSET 0) AS n
             WHERE starts_with(normal, $2) OR length($2) >= 3 AND strpos(normal, $2) > 0
             ORDER BY place LIMIT %3$s
        ), parsed AS MATERIALIZED (
            SELECT a.id, to_tsvector('simple', t.content) AS simple, to_tsvector('english', t.content) AS english
              FROM (SELECT id FROM found WHERE has_words
                     ORDER BY name COLLATE "C" ILIKE ALL ($3) DESC, length(name), name, id LIMIT %3$s) AS f
              JOIN (%2$s) AS a ON a.id = f.id
             CROSS JOIN LATERAL (SELECT left(concat_ws(' ', a.name, a.description), 10000) AS content) AS t
        ), worded AS (
            SELECT id, greatest(ts_rank(simple, $5), ts_rank(english, $6))::float8 AS closeness
              FROM parsed WHERE simple @@ $5 OR english @@ $6
        ), lists (list, id, similarity, weight, closeness) AS (
            SELECT 'vector', id, similarity, 1.0, similarity FROM near
            UNION ALL SELECT 'text', id, NULL, 1.0, closeness FROM worded
            UNION ALL SELECT 'name', id, NULL, weight, -place FROM named
        ), places AS (
            SELECT list, id, similarity, weight,
                   row_number() OVER (PARTITION BY list ORDER BY closeness + $7 * coalesce(q.difference, 0) DESC, id) AS place
              FROM lists LEFT JOIN public.agent_search_quality AS q ON q.agent_id = id
        ), fused AS (
            SELECT id, sum(weight / (60 + place))::float8 AS score, max(similarity) AS similarity,
                   array_agg(list ORDER BY list DESC) AS matched_by
              FROM places WHERE place <= %3$s GROUP BY id
        )
        SELECT (row_number() OVER (ORDER BY f.score DESC, f.similarity DESC NULLS LAST, f.id))::integer, f.id, a.name::text,
               f.score, f.similarity, f.matched_by, f.similarity >= 0.2 IS TRUE OR f.matched_by <> '{vector}'
          FROM fused AS f JOIN public.agents AS a ON a.id = f.id
         ORDER BY 1 LIMIT $8
        $statement$, v_vectors, v_agents, c_depth, v_named, v_worded)
    USING v_query, v_name, v_words, c_ignored, plainto_tsquery('simple', coalesce(v_text, '')),
          plainto_tsquery('english', coalesce(v_text, '')), p_quality_weight, p_k;
END
$body$;

-- A platform's default privileges may have granted more.
REVOKE ALL ON public.agent_embedding_models, public.agent_embeddings, public.agent_embedding_failures,
    public.agent_search_quality FROM PUBLIC, anon, authenticated, service_role, usage_ingest;
REVOKE ALL ON FUNCTION public.agent_embedding_is_unit(real[]),
    public.search_agents(real[], text, integer, jsonb, text, double precision) FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.agent_embedding_models, public.agent_embeddings, public.agent_search_quality TO authenticated, service_role;
GRANT SELECT ON public.agent_embedding_failures TO service_role;
GRANT EXECUTE ON FUNCTION public.search_agents(real[], text, integer, jsonb, text, double precision)
    TO authenticated, service_role;
CREATE POLICY agent_embedding_models_select ON public.agent_embedding_models FOR SELECT TO authenticated, service_role
    USING (true);
-- Both subqueries read agents with the caller's rights and say the same. The scalar one is a look-up for each row, which is best
-- for the few rows of an index. IN reads every agent, once: of 10,000 it takes 4 ms instead of 11 where all vectors are
-- compared, which search_agents announces.
CREATE POLICY agent_embeddings_visible ON public.agent_embeddings FOR SELECT TO authenticated
    USING (CASE WHEN (SELECT current_setting('usage_worker.reads_every_agent', true) = 'true')
                THEN agent_id IN (SELECT a.id FROM public.agents AS a)
                ELSE (SELECT true FROM public.agents AS a WHERE a.id = agent_embeddings.agent_id) END);
CREATE POLICY agent_search_quality_visible ON public.agent_search_quality FOR SELECT TO authenticated
    USING ((SELECT true FROM public.agents AS a WHERE a.id = agent_search_quality.agent_id));
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY agent_embeddings_service_role ON public.agent_embeddings FOR SELECT TO service_role USING (true);
CREATE POLICY agent_embedding_failures_service_role ON public.agent_embedding_failures FOR SELECT TO service_role USING (true);
CREATE POLICY agent_search_quality_service_role ON public.agent_search_quality FOR SELECT TO service_role USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.agent_embedding_models IS 'The models whose vectors of agents are kept, several side by side; written by a periodic task.';
    COMMENT ON COLUMN public.agent_embedding_models.model IS 'Name of the model, 1 to 255 characters.';
    COMMENT ON COLUMN public.agent_embedding_models.dimension IS 'Number of elements of its vectors.';
    COMMENT ON COLUMN public.agent_embedding_models.template IS 'Version of the text that is made from an agent; part of content_hash.';
    COMMENT ON COLUMN public.agent_embedding_models.query_prefix IS 'What the model wants before the text of a query; mostly empty.';
    COMMENT ON COLUMN public.agent_embedding_models.state IS 'filling: some agents have no vector yet; ready; retired: not searched any more.';
    COMMENT ON COLUMN public.agent_embedding_models.is_default IS 'Whether search_agents uses it where no model is given; at most one, and ready.';
    COMMENT ON COLUMN public.agent_embedding_models.created_at IS 'When the row was inserted.';
    COMMENT ON INDEX public.agent_embedding_models_pkey IS 'Finds a model by its name.';
    COMMENT ON INDEX public.agent_embedding_models_model_dimension_key IS 'Keeps vectors of another dimension out, by their foreign key.';
    COMMENT ON INDEX public.agent_embedding_models_default IS 'Keeps a second model from being the default.';
    COMMENT ON POLICY agent_embedding_models_select ON public.agent_embedding_models IS 'Users see the models, which say nothing about agents.';
    COMMENT ON TABLE public.agent_embeddings IS 'Vectors of the texts of agents, from which much of a text can be recovered: visible where the agent is; written by a periodic task.';
    COMMENT ON COLUMN public.agent_embeddings.agent_id IS 'The agent.';
    COMMENT ON COLUMN public.agent_embeddings.model IS 'The model that made the vector.';
    COMMENT ON COLUMN public.agent_embeddings.dimension IS 'Number of elements: that of the model.';
    COMMENT ON COLUMN public.agent_embeddings.embedding IS 'The vector, of length 1; its index is one of pgvector, made by a periodic task.';
    COMMENT ON COLUMN public.agent_embeddings.content_hash IS 'SHA-256 of the text that was embedded and of its template''s version.';
    COMMENT ON COLUMN public.agent_embeddings.embedded_at IS 'When the vector was written.';
    COMMENT ON INDEX public.agent_embeddings_pkey IS 'Finds the vector of an agent, also when the agent is deleted.';
    COMMENT ON INDEX public.agent_embeddings_model IS 'Finds the vectors of a model, also when the model is deleted.';
    COMMENT ON POLICY agent_embeddings_visible ON public.agent_embeddings IS 'Users see the vectors of agents that they see.';
    COMMENT ON POLICY agent_embeddings_service_role ON public.agent_embeddings IS 'A service_role without BYPASSRLS sees every vector.';
    COMMENT ON TABLE public.agent_embedding_failures IS 'Texts of agents that a model could not embed; written by a periodic task.';
    COMMENT ON COLUMN public.agent_embedding_failures.agent_id IS 'The agent.';
    COMMENT ON COLUMN public.agent_embedding_failures.model IS 'The model.';
    COMMENT ON COLUMN public.agent_embedding_failures.content_hash IS 'SHA-256 of the text and of its template''s version: another text is tried at once.';
    COMMENT ON COLUMN public.agent_embedding_failures.attempts IS 'How often this text was tried.';
    COMMENT ON COLUMN public.agent_embedding_failures.next_try_at IS 'When it is tried again.';
    COMMENT ON COLUMN public.agent_embedding_failures.error IS 'Why the last attempt failed, without the text.';
    COMMENT ON INDEX public.agent_embedding_failures_pkey IS 'Finds the failure of an agent, also when the agent is deleted.';
    COMMENT ON INDEX public.agent_embedding_failures_model IS 'Finds the failures of a model, also when the model is deleted.';
    COMMENT ON POLICY agent_embedding_failures_service_role ON public.agent_embedding_failures IS 'A service_role without BYPASSRLS sees every failure.';
    COMMENT ON TABLE public.agent_search_quality IS 'How much better or worse than others the users of an agent fare, of agents with at least 5 users; written by a periodic task.';
    COMMENT ON COLUMN public.agent_search_quality.agent_id IS 'The agent.';
    COMMENT ON COLUMN public.agent_search_quality.difference IS 'Mean quality_score of its users less that of all agents, divided by 5, drawn to 0 where users are few; in steps of 0.02.';
    COMMENT ON COLUMN public.agent_search_quality.computed_at IS 'When it was computed.';
    COMMENT ON INDEX public.agent_search_quality_pkey IS 'Finds the quality of an agent, also when the agent is deleted.';
    COMMENT ON POLICY agent_search_quality_visible ON public.agent_search_quality IS 'Users see the quality of agents that they see.';
    COMMENT ON POLICY agent_search_quality_service_role ON public.agent_search_quality IS 'A service_role without BYPASSRLS sees every agent''s quality.';
    COMMENT ON FUNCTION public.agent_embedding_is_unit IS 'Returns whether a vector has finite elements and the length 1.';
    COMMENT ON FUNCTION public.search_agents IS 'Returns the agents visible to the caller that are nearest to a vector, a text or both, best first.';
END
$comments$;
