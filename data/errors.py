"""The error for input that cannot be used."""


class DataError(ValueError):
    """Input that cannot be used. The message names the file, the reason and the remedy."""
