-- A number of our own in front, since the application may use advisory locks, too.
SELECT pg_try_advisory_xact_lock(1970370406, hashtext(%(task)s))
