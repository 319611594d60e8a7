"""Candidate sources, one module each, and the fusion of their proposals."""
