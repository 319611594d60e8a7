"""How data enters and leaves: engines, Parquet, streams, batches."""
