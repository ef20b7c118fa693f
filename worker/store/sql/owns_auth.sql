-- Whether auth.users is ours to write, or the platform's.
SELECT pg_get_userbyid(c.relowner) = current_user FROM pg_class c WHERE c.oid = 'auth.users'::regclass
