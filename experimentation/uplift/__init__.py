"""What a slot adds: incremental revenue from a log of slates that were withheld at random (ghost slates)."""
