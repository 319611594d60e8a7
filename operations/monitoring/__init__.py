"""Monitoring of a live bundle: the daily report, and log against replay (docs/monitoring.md)."""
