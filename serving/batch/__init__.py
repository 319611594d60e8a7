"""Many checkouts at once, from Parquet to Parquet."""
