-- What the audit trail calls the deletions of this transaction.
SELECT set_config('usage_worker.action', 'purge', true)
