"""Estimates of the incremental revenue of slates, from a log with slates withheld at random (ghosts)."""
