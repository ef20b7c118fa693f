-- The books of intake; the table itself checks that they add up. Last statement of the batch: workers of one stream
-- wait here for one another's commit.
INSERT INTO public.usage_intake AS i (day, stream, accepted, applied, duplicate, quarantined, booked_at)
VALUES ((now() AT TIME ZONE 'UTC')::date, %(stream)s, %(accepted)s, %(applied)s, %(duplicate)s, %(quarantined)s,
        clock_timestamp())
ON CONFLICT (day, stream) DO UPDATE SET
    accepted = i.accepted + excluded.accepted,
    applied = i.applied + excluded.applied,
    duplicate = i.duplicate + excluded.duplicate,
    quarantined = i.quarantined + excluded.quarantined,
    booked_at = clock_timestamp()
