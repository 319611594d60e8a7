"""The daily loop on the simulated market: simulated users shop at a real Sextet (docs/loop.md)."""
