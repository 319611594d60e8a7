"""Constants that `data` and `models` share. They stand beside `schema.py`, which needs torch, for commands
that only read tables: torch takes seconds to import."""

# Codes of `history_kind`, by position.
HISTORY_KINDS = ("purchase", "click", "cart")
SECONDS_PER_DAY = 86_400
