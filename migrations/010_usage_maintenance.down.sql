-- version: 4.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file ban-drop-table -- a way down takes away what the way up brought
DROP TABLE public.usage_maintenance;
