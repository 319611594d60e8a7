"""Since the model went live: `python -m operations.monitoring daily` and `reconcile` (docs/monitoring.md)."""
