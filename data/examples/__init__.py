"""Examples, one row per checkout: splits, histories, outcomes, item snapshots and neighbours."""
