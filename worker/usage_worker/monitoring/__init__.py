"""Status and metrics for operators."""
