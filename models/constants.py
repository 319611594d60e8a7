"""Constants that `data` and `models` share.

They are not in `schema.py`, because that module imports torch, which takes seconds, and some commands only
read tables.
"""

# Codes of `history_kind`, by position.
HISTORY_KINDS = ("purchase", "click", "cart")
SECONDS_PER_DAY = 86_400
