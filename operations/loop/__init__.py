"""Simulated people who shop at a real Sextet: the whole loop, day by day (docs/loop.md)."""
