"""One row per checkout: splits, histories, outcomes, snapshots and neighbours."""
