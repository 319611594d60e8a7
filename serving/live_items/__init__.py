"""Stock, prices and new items that change while a bundle serves, without a new version."""
