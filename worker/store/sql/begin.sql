-- A batch is a few thousand keys against a table of millions: a nested loop over the primary key is the plan, and it
-- keeps the order in which rows are locked. Left to guess, the planner may read the whole table, or lock in heap order.
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
-- What somebody's deferred constraint or trigger refuses is refused with the events that it refuses, not at COMMIT.
SET CONSTRAINTS ALL IMMEDIATE;
-- A worker that was stopped or cut off inside its transaction would hold its rows, and with them every other worker,
-- for ever. A limit that the administrator has set stays.
SELECT set_config('idle_in_transaction_session_timeout', '15s', true)
 WHERE current_setting('idle_in_transaction_session_timeout') = '0'
