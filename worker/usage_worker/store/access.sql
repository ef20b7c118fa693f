-- Whose rights a transaction has.

-- name: act_as_user
-- With the settings that PostgREST makes before a request, until the transaction ends.
SELECT set_config('request.jwt.claims', json_build_object('sub', %(user_id)s::uuid)::text, true),
       set_config('role', 'authenticated', true)
