-- An array, since a join with the limited rows may evaluate them again for every row, and then the limit is void. A row
-- that somebody is changing is passed over; one that was restored meanwhile is seen as it is now and stays. From the
-- time that the chunk before has reached, since the index still knows the rows that it deleted.
DELETE FROM public.user_agents
 WHERE id = ANY (ARRAY(
        SELECT id FROM public.user_agents
         WHERE deleted_at >= %(reached)s AND deleted_at <= now() - %(older_than)s::interval
         ORDER BY deleted_at LIMIT %(rows)s FOR UPDATE SKIP LOCKED))
   AND deleted_at <= now() - %(older_than)s::interval
RETURNING deleted_at
