-- What was found, and which pairs get their row back.
SELECT user_id, agent_id, expected, found, unexplained, life IS NULL AND holder IS NOT NULL AS revived FROM differing
