"""Input and output: engines, Parquet, streams and batches."""
