"""Errors of training that a user can fix."""


class ConfigError(ValueError):
    """A key, group choice or value that no config has, or a class that cannot be used."""
