"""Constants that `data` and `models` share.

`schema.py` imports torch, which takes seconds. These constants have their own module, so that commands that
only read tables start quickly.
"""

# The code of a `history_kind` is its position here.
HISTORY_KINDS = ("purchase", "click", "cart")
SECONDS_PER_DAY = 86_400
