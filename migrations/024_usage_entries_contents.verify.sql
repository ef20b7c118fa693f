SELECT * FROM (VALUES
    ('column', 'usage_entries.contents', 'uuid'),
    ('column', 'usage_entries.held_in', 'text'),
    ('grant', 'column usage_entries.held_in to usage_ingest', 'update'),
    ('table', 'usage_entries_kept_4_1_0', NULL)
) AS expected (kind, object, definition)
