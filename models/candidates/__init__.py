"""Candidate sources, a module each, and their fusion."""
