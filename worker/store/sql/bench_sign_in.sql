-- What PostgREST does before a request: until the end of the transaction we are this user, in the role of all users.
SELECT set_config('request.jwt.claims', json_build_object('sub', %(user_id)s::uuid)::text, true),
       set_config('role', 'authenticated', true)
