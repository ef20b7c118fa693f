-- The promise in four figures: accepted = applied + duplicate + quarantined.
SELECT coalesce(sum(accepted), 0)::bigint AS accepted, coalesce(sum(applied), 0)::bigint AS applied,
       coalesce(sum(duplicate), 0)::bigint AS duplicate, coalesce(sum(quarantined), 0)::bigint AS quarantined
  FROM public.usage_intake
