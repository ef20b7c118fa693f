"""What operators see: status and metrics."""
