"""Impressions and feedback on their way to training."""
