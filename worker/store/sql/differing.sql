-- What a repair has found, and whose row it holds. Temporary and emptied at commit.
CREATE TEMP TABLE IF NOT EXISTS differing (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    life uuid,
    expected numeric[] NOT NULL,
    found numeric[] NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz,
    -- The pair has lives that ended.
    ended boolean NOT NULL,
    -- The counters of the life that goes on are the sums of its days.
    settled boolean NOT NULL,
    holder uuid,
    blames_past boolean NOT NULL DEFAULT false
) ON COMMIT DELETE ROWS
