"""A/B tests: planned and analyzed from the impression log."""
