"""Answers many checkouts at once: reads checkouts from Parquet, and writes results to Parquet."""
