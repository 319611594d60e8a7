"""Experiments: A/B tests, off-policy evaluation of a bundle, and exploration policies."""
