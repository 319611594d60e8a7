"""A/B tests of what the service shows: planned and read from its impression log."""
