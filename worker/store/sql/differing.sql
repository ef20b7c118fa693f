-- What a repair has found, and whose row it holds. Temporary and emptied at commit.
CREATE TEMP TABLE IF NOT EXISTS differing (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    life uuid,
    expected numeric[] NOT NULL,
    found numeric[] NOT NULL,
    -- What the repair adds to the figures: to those of the life that goes on, and to those of the lives that ended.
    added numeric[] NOT NULL,
    added_past numeric[],
    -- What is too much, and nothing says why. No repair takes it away.
    unexplained numeric[] NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz,
    -- The pair has lives that ended.
    ended boolean NOT NULL,
    holder uuid
) ON COMMIT DELETE ROWS
