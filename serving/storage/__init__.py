"""A bundle's files, mapped and verified."""
