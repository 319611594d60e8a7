"""Rules of the shop: what a slate may, must or should show, whatever the models say."""
