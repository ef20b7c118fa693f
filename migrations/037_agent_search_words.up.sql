-- version: 5.2.0
-- lock_timeout: 100ms
--
-- search_agents leaves out words that are too long in lower case, instead of failing with an error that quotes them. It finds
-- words with letters of any script: it missed capital ones of some, and in Cyrillic or Greek nearly every text passed for one
-- with the words, of which a hundred are read.

CREATE OR REPLACE FUNCTION public.search_agents(
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
    v_word pg_catalog.text;
    v_model record;
    v_norm double precision;
    v_query real[];
    v_filter pg_catalog.text := '';
    v_key pg_catalog.text;
    v_agents pg_catalog.text;
    v_vectors pg_catalog.text := 'SELECT NULL::uuid AS id, NULL::float8 AS similarity WHERE false';
    -- Where the caller can use it: 0.8 has iterative scans, which keep row-level security from emptying a result.
    v_pgvector pg_catalog.text := (
        SELECT quote_ident(n.nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
         WHERE e.extname = 'vector' AND string_to_array(e.extversion, '.')::integer[] >= '{0,8}'
           AND has_schema_privilege(n.oid, 'USAGE'));
    v_near pg_catalog.uuid[];
    v_count integer;
    v_name pg_catalog.text;
    v_named pg_catalog.text;
    v_simple pg_catalog.tsquery;
    v_english pg_catalog.tsquery;
    v_starts pg_catalog.text[];
    v_starts_in pg_catalog.text;
    v_name_has pg_catalog.text;
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
            WHEN v_key = 'created_by' AND p_filters ->> v_key ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'
                THEN format(' AND lower(a.created_by) = lower(%L)', p_filters ->> v_key)
            WHEN v_key = 'is_active' AND jsonb_typeof(p_filters -> v_key) = 'boolean'
                THEN format(' AND a.is_active IN (%L, %L)', p_filters ->> v_key, (p_filters -> v_key)::boolean::integer)
            WHEN v_key = 'status' AND jsonb_typeof(p_filters -> v_key) = 'string'
                THEN format(' AND a.status = %L', p_filters ->> v_key)
        END;
        IF v_filter IS NULL THEN
            RAISE invalid_parameter_value USING MESSAGE = 'search_agents: p_filters takes created_by (a UUID), is_active (true or false) and status (a text)';
        END IF;
    END LOOP;
    -- A platform's table may lack all columns but id and name: such a column is then that of `missing`. As text, since their
    -- types are the platform's: a UUID may be text, true may be 1.
    v_agents := 'SELECT a.id, a.name, a.description
          FROM (SELECT NULL::text AS description, NULL::text AS created_by, NULL::text AS is_active, NULL::text AS status) AS missing
         CROSS JOIN LATERAL (
            SELECT g.id, g.name::text AS name, description::text AS description, created_by::text AS created_by,
                   is_active::text AS is_active, status::text AS status
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
        -- What single precision cannot hold beside the others is 0.
        v_query := ARRAY(SELECT CASE WHEN abs(x / v_norm) > 1e-37 THEN (x / v_norm)::real ELSE 0 END FROM unnest(p_query) WITH ORDINALITY AS q (x, i) ORDER BY i);

        EXECUTE format('SELECT count(*) FROM (SELECT FROM (%s) AS a LIMIT %s) AS counted', v_agents, c_exact + 1) INTO v_count;
        IF v_pgvector IS NULL AND v_count > c_without_pgvector THEN
            IF v_text IS NULL THEN
                RAISE program_limit_exceeded USING
                    MESSAGE = format('search_agents: more than %s agents need the extension vector (pgvector)', c_without_pgvector),
                    HINT = 'Install the extension, use filters, or give p_query_text.';
            END IF;
            RAISE NOTICE USING ERRCODE = 'program_limit_exceeded',
                MESSAGE = format('search_agents: more than %s agents need the extension vector (pgvector); searched by words only', c_without_pgvector);
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
                ELSE format(
                    'SELECT n.agent_id AS id, 1 - n.distance AS similarity
                       FROM (SELECT e.agent_id, (e.embedding::%4$s.vector(%5$s) OPERATOR(%4$s.<=>) $1::%4$s.vector(%5$s)) + 0 AS distance
                               FROM %1$s e.model = %2$L
                              ORDER BY distance, e.agent_id LIMIT %3$s) AS n',
                    v_vectors, v_model.model, c_depth, v_pgvector, v_model.dimension)
            END;
            PERFORM set_config('usage_worker.reads_every_agent', (v_filter = '' AND v_count <= c_exact)::text, true);
            IF v_pgvector IS NOT NULL AND v_count > c_exact THEN
                -- Local to the transaction. As settings of the function they would be refused in sessions that have not used
                -- the extension yet.
                PERFORM set_config('hnsw.ef_search', '200', true), set_config('hnsw.iterative_scan', 'relaxed_order', true);
                EXECUTE format(
                    'SELECT ARRAY(SELECT e.agent_id FROM public.agent_embeddings AS e
                                   WHERE e.model = %1$L %5$s
                                   ORDER BY e.embedding::%3$s.halfvec(%4$s) OPERATOR(%3$s.<=>) $1::%3$s.halfvec(%4$s)
                                   LIMIT %2$s)',
                    v_model.model, c_depth, v_pgvector, v_model.dimension,
                    CASE WHEN v_filter <> '' THEN format('AND (SELECT true FROM (%s) AS a WHERE a.id = e.agent_id)', v_agents) END)
                INTO v_near USING v_query;
                -- The index gives up after hnsw.max_scan_tuples vectors: where many near ones are hidden or filtered out, it
                -- would return fewer, or none, and tell of hidden agents. All vectors are compared then.
                IF cardinality(v_near) = c_depth THEN
                    -- The index holds halves and returns them nearly in order; the similarity is that of the vectors themselves.
                    v_vectors := format(
                        'SELECT n.agent_id AS id, 1 - n.distance AS similarity
                           FROM (SELECT e.agent_id, (e.embedding::%2$s.vector(%3$s) OPERATOR(%2$s.<=>) $1::%2$s.vector(%3$s)) + 0 AS distance
                                   FROM public.agent_embeddings AS e WHERE e.model = %1$L AND e.agent_id = ANY ($9)) AS n
                          ORDER BY n.distance, n.agent_id',
                        v_model.model, v_pgvector, v_model.dimension);
                ELSE
                    PERFORM set_config('usage_worker.reads_every_agent', (v_filter = '')::text, true);
                END IF;
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
    -- PostgreSQL leaves out words of more than 2,046 bytes, and fails where their lower case alone is that long (Ⱥ has two bytes,
    -- ⱥ three). Its own parser says what a word is.
    FOR v_word IN
        SELECT token FROM ts_parse('default', v_text) WHERE octet_length(token) <= 2046 AND octet_length(lower(token)) > 2046
    LOOP
        v_text := replace(v_text, v_word, ' ');
    END LOOP;
    v_text := nullif(btrim(v_text), '');
    -- A text without words gets no query: parsing it would raise a notice.
    IF v_text IS NOT NULL THEN
        v_simple := plainto_tsquery('simple', v_text);
        v_english := plainto_tsquery('english', v_text);
    END IF;
    -- The beginnings of the longest words, of which stemming changes at most two letters; of three letters, the last e, i or
    -- y (use, using; fli, fly; sky, skies) or two (die, dying). ILIKE compares only ASCII without case, and is quicker than
    -- lower(), which the other letters need, and i and k: each is also the small letter of one beyond ASCII (İ, the Kelvin
    -- sign). In a text of ASCII alone lower() needs no locale, which takes half of the time. Locales differ in the small letters
    -- of I and İ (i, ı, i with a dot above), and the parser may use another one than lower(); which sigma that writes depends on
    -- what follows.
    FOR v_word, v_starts IN
        SELECT word,
               CASE
                   WHEN word ~ '^[^\\%_].[eiy]$' THEN ARRAY[left(word, 2) || 'e', left(word, 2) || 'i', left(word, 2) || 'y']
                       || CASE WHEN word ~ 'ie$' THEN ARRAY[left(word, 1) || 'y'] ELSE '{}' END
                   ELSE ARRAY[left(word, greatest(3, length(word) - 2))]
               END
          FROM unnest(tsvector_to_array(to_tsvector(
            CASE WHEN numnode(v_english) > 0 THEN 'english' ELSE 'simple' END::regconfig, v_text))) AS word
         ORDER BY length(word) DESC, word LIMIT 8
    LOOP
        v_starts := ARRAY(
            SELECT '%' || translate(replace(replace(replace(replace(lower(start), 'i' || chr(775), 'i'),
                                                            '\', '\\'), '%', '\%'), '_', '\_'), 'ıσς', 'i__') || '%'
              FROM unnest(v_starts) AS start);
        v_starts_in := CASE
            WHEN v_word ~ '^[!-hjl-~]*$' THEN '%1$s COLLATE "C" ILIKE ANY (%2$L)'
            ELSE 'CASE WHEN octet_length(%1$s) = char_length(%1$s) THEN lower(%1$s COLLATE "C")
                ELSE replace(replace(lower(%1$s COLLATE "default"), ''i'' || chr(775), ''i''), ''ı'', ''i'') COLLATE "C" END LIKE ANY (%2$L)'
        END;
        v_name_has := concat_ws(' AND ', v_name_has, format(v_starts_in, 'a.name', v_starts));
        v_worded := concat_ws(' AND ', v_worded, format(
            '(%s OR %s)', format(v_starts_in, 'a.name', v_starts), format(v_starts_in, 'a.description', v_starts)));
    END LOOP;
    v_name_has := coalesce(v_name_has, 'false');
    -- Beside a vector, the descriptions of many agents are not read: the vector stands for them, and 100,000 take four times
    -- as long as their names.
    v_worded := CASE WHEN v_count > c_exact THEN v_name_has ELSE coalesce(v_worded, 'false') END;
    RETURN QUERY EXECUTE format(
        $statement$
        WITH near AS MATERIALIZED (%1$s
        ), found AS MATERIALIZED (
            SELECT a.id, a.name, %5$s AS has_words, %6$s AS name_has FROM (%2$s) AS a WHERE %4$s OR %5$s
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
                     ORDER BY name_has DESC, length(name), name, id LIMIT %3$s) AS f
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
        $statement$, v_vectors, v_agents, c_depth, v_named, v_worded, v_name_has)
    USING v_query, v_name, v_text, c_ignored, v_simple, v_english, p_quality_weight, p_k, v_near;
END
$body$;
-- Where somebody dropped the function, this is a new one, and PostgreSQL lets everybody execute it.
REVOKE ALL ON FUNCTION public.search_agents(real[], text, integer, jsonb, text, double precision)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.search_agents(real[], text, integer, jsonb, text, double precision)
    TO authenticated, service_role;
