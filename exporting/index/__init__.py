"""Builds, measures and tunes the quantized index."""
