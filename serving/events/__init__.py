"""The impression log: impressions and feedback, stored for training."""
