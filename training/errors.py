"""Errors of training that a user can fix."""


class ConfigError(ValueError):
    """An unknown config key or group choice, a wrong value, or a class that cannot be used."""
