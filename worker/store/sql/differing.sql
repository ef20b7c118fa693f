-- What a repair has found, and whose row it holds. Temporary and emptied at commit.
CREATE TEMP TABLE IF NOT EXISTS differing (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    life uuid,
    expected numeric[] NOT NULL,
    found numeric[] NOT NULL,
    ended boolean NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz,
    holder uuid
) ON COMMIT DELETE ROWS
