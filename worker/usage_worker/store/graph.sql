-- The graph of agents: membership, counts of pairs, and what is published of them.

-- name: graph_touched
-- Users whose agents differ from those that the counts have, with both lists, in one snapshot: what is counted later stays
-- for the next run. A user of an agent has its row, which is not deleted, and has used it within the window. Rows of
-- user_agents instead of usage_daily: one a pair and not up to 90, with deletion and restoring already in them, and with
-- what was used before 4.0.0, whose days are unknown.
CREATE TEMPORARY TABLE graph_touched ON COMMIT DROP AS
SELECT user_id, kept.agent_ids AS agents_before, present.agent_ids AS agents_after
  FROM public.agent_graph_members kept
  FULL JOIN (
    SELECT user_id, array_agg(agent_id ORDER BY agent_id) AS agent_ids
      FROM public.user_agents
     WHERE deleted_at IS NULL AND usage_count > 0
       AND last_used_at >= ((now() AT TIME ZONE 'UTC')::date - 89) AT TIME ZONE 'UTC'
     GROUP BY user_id
  ) present USING (user_id)
 WHERE kept.agent_ids IS DISTINCT FROM present.agent_ids

-- name: graph_changes
-- What the touched users change: minus their pairs before, plus those after. Both by the same rule, so that a user who
-- exceeds 100 agents leaves exactly what came in. An agent with itself is a pair, too: its number of users.
CREATE TEMPORARY TABLE graph_changes ON COMMIT DROP AS
SELECT a AS agent_a, b AS agent_b, sum(list.sign)::bigint AS users
  FROM graph_touched t
 CROSS JOIN LATERAL (VALUES (t.agents_before, -1), (t.agents_after, 1)) AS list (agent_ids, sign)
 CROSS JOIN LATERAL unnest(list.agent_ids) AS a
 CROSS JOIN LATERAL unnest(list.agent_ids) AS b
 WHERE cardinality(list.agent_ids) <= 100 AND a <= b
 GROUP BY a, b
HAVING sum(list.sign) <> 0

-- name: graph_differences
-- How all pairs, counted again, differ from the counts; in the form of graph_changes.
CREATE TEMPORARY TABLE graph_changes ON COMMIT DROP AS
SELECT agent_a, agent_b, coalesce(counted.users, 0) - coalesce(kept.users, 0) AS users
  FROM (
    SELECT a AS agent_a, b AS agent_b, count(*) AS users
      FROM public.agent_graph_members m
     CROSS JOIN LATERAL unnest(m.agent_ids) AS a
     CROSS JOIN LATERAL unnest(m.agent_ids) AS b
     WHERE cardinality(m.agent_ids) <= 100 AND a <= b
     GROUP BY a, b
  ) counted
  FULL JOIN public.agent_pair_counts kept USING (agent_a, agent_b)
 WHERE counted.users IS DISTINCT FROM kept.users

-- name: graph_apply_changes
-- Counts that a change leaves without users are deleted. What is negative without a count was damaged; the recount repairs
-- it.
MERGE INTO public.agent_pair_counts AS p
USING graph_changes AS c ON (p.agent_a, p.agent_b) = (c.agent_a, c.agent_b)
 WHEN MATCHED AND p.users + c.users <= 0 THEN DELETE
 WHEN MATCHED THEN UPDATE SET users = p.users + c.users
 WHEN NOT MATCHED AND c.users > 0 THEN INSERT (agent_a, agent_b, users) VALUES (c.agent_a, c.agent_b, c.users)

-- name: graph_keep_members
-- The lists that the counts now have.
MERGE INTO public.agent_graph_members AS m
USING graph_touched AS t ON m.user_id = t.user_id
 WHEN MATCHED AND t.agents_after IS NULL THEN DELETE
 WHEN MATCHED THEN UPDATE SET agent_ids = t.agents_after
 WHEN NOT MATCHED THEN INSERT (user_id, agent_ids) VALUES (t.user_id, t.agents_after)

-- name: graph_users
-- How many users the counts have, and how many are left out since they have too many agents.
SELECT count(*) FILTER (WHERE cardinality(agent_ids) <= 100) AS counted,
       count(*) FILTER (WHERE cardinality(agent_ids) > 100) AS left_out
  FROM public.agent_graph_members

-- name: graph_is_due
-- Relationships are published once a UTC day: one that appeared the moment a colleague began to use an agent would tell who.
SELECT coalesce((now() AT TIME ZONE 'UTC')::date > (max(s.computed_at) AT TIME ZONE 'UTC')::date
                OR max(s.min_users) <> %(min_users)s, true) AS is_due
  FROM public.agent_graph_state s

-- name: graph_clear
-- Before both are written again in the same transaction, so that no reader sees it.
WITH relationships AS (DELETE FROM public.agent_relationships)
DELETE FROM public.agent_popularity

-- name: graph_add_used_with
-- Gate and minimum by the exact counts, weight, lift and order by those rounded down to a multiple of 5. Ranked by cosine:
-- by lift or PMI, rare pairs push out what people use.
WITH known AS (
    SELECT p.agent_a AS id, p.users, p.users - p.users %% 5 AS rounded
      FROM public.agent_pair_counts p JOIN public.agents ON agents.id = p.agent_a
     WHERE p.agent_a = p.agent_b
), pairs AS (
    SELECT p.agent_a, p.agent_b, p.users - p.users %% 5 AS users,
           (p.users - p.users %% 5) / sqrt(a.rounded::double precision * b.rounded) AS weight,
           (p.users - p.users %% 5)::numeric * (%(users)s - %(users)s %% 5) / (a.rounded * b.rounded) AS lift
      FROM public.agent_pair_counts p JOIN known a ON a.id = p.agent_a JOIN known b ON b.id = p.agent_b
     WHERE p.agent_a < p.agent_b AND p.users >= %(min_users)s
       AND p.users::numeric * %(users)s > a.users::numeric * b.users
), directed AS (
    SELECT agent_a AS source_id, agent_b AS target_id, users, weight, lift FROM pairs
     UNION ALL
    SELECT agent_b, agent_a, users, weight, lift FROM pairs
), ranked AS (
    SELECT directed.*, row_number() OVER (PARTITION BY source_id ORDER BY weight DESC, target_id) AS rank FROM directed
)
INSERT INTO public.agent_relationships (source_id, target_id, kind, weight, users, evidence)
SELECT source_id, target_id, 'used_with', weight, users,
       jsonb_build_object('lift', round(lift, 2), 'window_days', 90)
  FROM ranked WHERE rank <= 50

-- name: graph_add_copies
-- What an agent is a copy of, its creator says in the row of the creator; any user may write anything there, so nobody
-- else's row counts, nor does any of an agent whose creator is unknown: a relation that another row could make or unmake
-- would tell whether anybody uses the agent. created_by as text from JSON: a platform's agents may lack the column.
INSERT INTO public.agent_relationships (source_id, target_id, kind, weight)
SELECT ua.agent_id, ua.original_agent_id, 'copy_of', 1
  FROM public.user_agents ua
  JOIN public.agents a ON a.id = ua.agent_id
  JOIN public.agents original ON original.id = ua.original_agent_id
 WHERE ua.deleted_at IS NULL AND ua.original_agent_id <> ua.agent_id
   AND lower(to_jsonb(a) ->> 'created_by') = ua.user_id::text

-- name: graph_add_popularity
-- With the same minimum as relationships.
INSERT INTO public.agent_popularity (agent_id, users)
SELECT p.agent_a, p.users - p.users %% 5
  FROM public.agent_pair_counts p JOIN public.agents a ON a.id = p.agent_a
 WHERE p.agent_a = p.agent_b AND p.users >= %(min_users)s

-- name: graph_note
-- When they were published, and with which minimum.
INSERT INTO public.agent_graph_state (computed_at, min_users) VALUES (now(), %(min_users)s)
ON CONFLICT (only_row) DO UPDATE SET computed_at = excluded.computed_at, min_users = excluded.min_users

-- name: graph_state
-- When relationships were published last, and with which minimum; no row before the first run.
SELECT computed_at, min_users FROM public.agent_graph_state

-- name: related_agents
-- With the rights of the role; names of agents that it sees.
SELECT r.rank, r.agent_id, coalesce(a.name, '') AS name, r.kind, r.weight, r.users
  FROM public.related_agents(%(agent_id)s, %(k)s) r JOIN public.agents a ON a.id = r.agent_id
 ORDER BY r.rank
