"""One row per checkout: splits, histories and outcomes; and what they read: snapshots and neighbours."""
