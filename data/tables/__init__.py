"""The canonical tables: their contract, checks, codes and attribution."""
