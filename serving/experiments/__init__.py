"""Assigns users to the arms of experiments."""
