"""The ranker: features, multi-task networks, losses, calibration, position bias."""
