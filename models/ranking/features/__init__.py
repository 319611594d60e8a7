"""What the ranker reads of a candidate."""
