"""Assignment of users to the arms of experiments."""
