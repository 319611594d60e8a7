"""Candidate sources and their fusion."""
