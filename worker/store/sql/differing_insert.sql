-- In front of the query that finds them.
INSERT INTO differing (
    user_id, agent_id, life, expected, found, added, added_past, unexplained, first_used_at, last_used_at, ended
)
