-- No setting of a role may cut a long refresh short. One that somebody runs by hand is not waited for.
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = '1s'
