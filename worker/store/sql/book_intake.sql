-- The books of intake; the table itself checks that they add up. Last statement of the batch: workers of one stream
-- wait here for one another's commit.
INSERT INTO public.usage_intake AS i (day, stream, accepted, applied, duplicate, quarantined)
VALUES ((now() AT TIME ZONE 'UTC')::date, %(stream)s, %(accepted)s, %(applied)s, %(duplicate)s, %(quarantined)s)
ON CONFLICT (day, stream) DO UPDATE SET
    accepted = i.accepted + excluded.accepted,
    applied = i.applied + excluded.applied,
    duplicate = i.duplicate + excluded.duplicate,
    quarantined = i.quarantined + excluded.quarantined
