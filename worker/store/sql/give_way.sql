-- Whoever waits for a lock is in others' way: we give up soon, and try again.
SELECT set_config('lock_timeout', %(patience)s, %(in_transaction)s)
