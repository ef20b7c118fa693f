-- A batch is a few thousand keys against a table of millions: a nested loop over the primary key is the plan, and it
-- keeps the order in which rows are locked. Left to guess, the planner may hash and lock in heap order.
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off
