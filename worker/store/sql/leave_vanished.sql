-- A life that ended since it was looked at took its sums with it.
DELETE FROM differing WHERE life IS NOT NULL AND holder IS DISTINCT FROM life
