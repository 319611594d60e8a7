"""Makes request ids that encode the items of a slate. So any worker of any host can check feedback.

    9f3a01c25be07c4417d2e6a0 1c3 0f9 a41 77e 2b0 c58
    24 random digits         3 digits of each item, in the order of the slots

An item's digits are a hash of its id, salted with the random digits. An item that was not shown matches one
of the six by chance once in 680 times. The log has the exact items, so training joins feedback by request and
item.
"""

import re
from collections.abc import Iterable
from hashlib import blake2b
from secrets import token_hex
from typing import Literal

N_RANDOM, N_ITEM = 24, 3  # hexadecimal digits
FORMAT = re.compile(f"[0-9a-f]{{{N_RANDOM}}}(?:[0-9a-f]{{{N_ITEM}}})+")


def new_request_id(item_ids: Iterable[str]) -> str:
    """A request id of a slate of these items."""
    random = token_hex(N_RANDOM // 2)
    return random + "".join(_item_digits(random, item_id) for item_id in item_ids)


def shown_state(request_id: str | None, item_id: str) -> Literal["yes", "no", "unknown"]:
    """Whether the slate of a request id showed an item: yes, no, or unknown for a foreign id."""
    if request_id is None or not FORMAT.fullmatch(request_id):
        return "unknown"
    digits = _item_digits(request_id[:N_RANDOM], item_id)
    starts = range(N_RANDOM, len(request_id), N_ITEM)
    return "yes" if any(request_id[start : start + N_ITEM] == digits for start in starts) else "no"


def _item_digits(random: str, item_id: str) -> str:
    text = item_id.encode(errors="surrogatepass")
    return blake2b(text, digest_size=2, key=random.encode()).hexdigest()[:N_ITEM]
