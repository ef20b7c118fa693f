-- Says that what is found detached was to be dropped.
COMMENT ON TABLE public.{partition} IS {mark}
