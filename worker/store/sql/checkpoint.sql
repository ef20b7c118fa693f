-- Pages that were filled are on disk before anything is measured.
CHECKPOINT
