"""Products: groups of items whose titles differ only in the pack size.

"Cola 500 ml", "COLA 2 x 1.5 L", "Cola, 12 pack" ─▶ one product, for a shopper sees the same card again
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NUMBER = r"(?:\d+\s\d+/\d+|\d+[.,]\d+|[.,]?\d+\.?)"  # 12; 1.5; .5; 14.; 5 3/4
UNITS = (
    r"fl\.?\s?oz|ozs?|fz|kg|mg|gr?|gms?|lbs?|ml|cl|dl|lt?r?|lit(?:er|re)s?|gal?|gallons?|pts?|pints?|qts?"
    r"|quarts?|ct|cnt|ctn|counts?|pk|packs?|pcs?|pieces?|ea|each|dz|doz|dozen|rolls?|sheets?|stems?|bags?"
    r"|cans?|cups?|cp|btls?|bottles?|loads?|lds?|doses?|uses?|pads?|sticks?|tablets?|tabs?|capsules?|caps?"
    r"|sq\s?ft|ft|yds?|cm|mm|m|in(?!\s*\d)|inch(?:es)?"
)
NUMBERS = rf"{NUMBER}(?:\s*(?:[x×*/-]|to)\s*{NUMBER}){{0,3}}"  # 2 x 500; 6/2.25; 2-3
MEASURE = rf"{NUMBERS}\s*-?\s*(?:{UNITS})(?![a-z0-9])\.?(?:\s*[x×*]\s*\d+(?![\w.]))?"  # 12-pack; 330 ml x 6
CUT_OFF = rf"(?:/\s*{NUMBER}\s*[a-z]{{0,2}}$)?"  # the end of a title that was shortened: 9 IN/37 O
BARE_UNIT = r"\s(?:ga|gal|pt|qt|lb|dz|doz)$"  # Milk GA
SIZE = re.compile(
    rf"(?<![\w.]){MEASURE}(?:\s*/\s*{MEASURE})?{CUT_OFF}"
    rf"|\b(?:pack|box|case|set|bag) of \d+\b|{BARE_UNIT}"
)
EMPTY_BRACKETS = re.compile(r"[(\[]\s*[)\]]")
EDGES = " ,;:./&-–|+"


def product_codes(titles: pa.StringArray) -> NDArray[np.int32]:
    """Returns the product code [N+1] of each item.

    The items of one product share a code, from 1 on. All other items have the code 0, and so have items
    without a title. Only the title counts, not the brand, because cards with equal titles look alike.
    """
    encoded = titles.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)  # of titles
    products: dict[str, int] = {}
    by_title = np.array(
        [products.setdefault(name, len(products)) if (name := product_name(title)) else -1
         for title in encoded.dictionary.to_pylist()] + [-1], np.int64,
    )  # fmt: skip
    product = by_title[codes]
    counts = np.bincount(product[product >= 0], minlength=max(len(products), 1))
    shared = np.flatnonzero(counts > 1)
    code = np.zeros(len(counts), np.int32)
    code[shared] = np.arange(1, len(shared) + 1)
    return np.where(product >= 0, code[product], 0).astype(np.int32)


def product_name(title: str) -> str:
    """The title without its pack size, in lower case. A title that is only a size is kept whole."""
    name = " ".join(title.casefold().split())
    without_size = EMPTY_BRACKETS.sub(" ", SIZE.sub(" ", name))
    return " ".join(without_size.split()).strip(EDGES) or name
