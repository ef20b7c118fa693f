-- Rows are kept for the next upgrade, readable by the owner only.
DO $down$
BEGIN
    IF EXISTS (SELECT FROM public.usage_dead_letters) THEN
        DROP POLICY usage_dead_letters_service_role ON public.usage_dead_letters;
        REVOKE ALL ON public.usage_dead_letters FROM PUBLIC, anon, authenticated, service_role;
        ALTER TABLE public.usage_dead_letters RENAME TO usage_dead_letters_kept_4_0_0;
    ELSE
        DROP TABLE public.usage_dead_letters;
    END IF;
END
$down$;
