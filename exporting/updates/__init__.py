"""Item changes published without training."""
