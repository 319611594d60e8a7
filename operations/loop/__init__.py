"""The daily loop on the simulated market: simulated users shop at a real Sextet.

See docs/how_to/daily_loop.md.
"""
