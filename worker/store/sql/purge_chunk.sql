-- An array, since a join with rows that are being locked may evaluate them again for every row. A row that somebody is
-- changing is passed over; one that moved, or another one that has its place now, goes only if it is due.
DELETE FROM public.user_agents
 WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM public.user_agents
         WHERE ctid = ANY (%(places)s::tid[]) AND deleted_at <= now() - %(older_than)s::interval
           FOR UPDATE SKIP LOCKED))
   AND deleted_at <= now() - %(older_than)s::interval
