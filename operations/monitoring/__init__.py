"""Monitoring of a live bundle: the daily report, and log against replay (docs/how_to/monitor.md)."""
