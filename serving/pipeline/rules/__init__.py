"""Rules of the shop: items that a slate may, must or should show, independent of the models."""
