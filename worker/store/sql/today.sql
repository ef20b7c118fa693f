-- The day by the database's clock: that of a worker may be wrong, and it would drop what is still needed.
SELECT (now() AT TIME ZONE 'UTC')::date AS today
