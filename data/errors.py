"""The error for unusable input."""


class DataError(ValueError):
    """Input that cannot be used. The message names the file, the reason and the remedy."""
