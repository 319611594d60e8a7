"""Features of (checkout, candidate) pairs, in named blocks. interactions.py composes the blocks."""
