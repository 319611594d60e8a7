"""Features of (checkout, candidate) pairs, in named blocks: a file per block, composed in interactions.py."""
