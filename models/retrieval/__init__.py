"""The two towers: item tower, query encoders, losses."""
