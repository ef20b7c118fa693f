-- Nobody finds it any more.
DROP TABLE IF EXISTS public.{partition}
