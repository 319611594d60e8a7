"""Since the model went live: `python -m monitoring daily` and `reconcile` (docs/monitoring.md)."""
