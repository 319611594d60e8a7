"""`recency`: items that are new in the shop, and items that the user recently clicked or put in a cart.

Table: `new_items`, from the catalog. Seeds: the user's clicks and carts.
"""

from torch import Tensor

from models.candidates.source import OwnEvents, Source, SourceInputs
from models.schema import SECONDS_PER_DAY

NEW_ITEM_DAYS = 28  # days after its first sale for which an item is new
VIEW_HALF_LIFE_DAYS = 7.0


def source(limit: int) -> Source:
    """The source. `limit` applies to new items and to viewed items separately."""
    return Source(
        limit,
        global_items=new_items,
        own_events=OwnEvents(kinds=("click", "cart"), half_life=VIEW_HALF_LIFE_DAYS),
    )


def new_items(inputs: SourceInputs) -> Tensor:
    """Returns the bestsellers [n] that were first sold in the last NEW_ITEM_DAYS."""
    first_sold = inputs.catalog.first_sold[inputs.bestsellers]
    new_since = inputs.snapshot_ts - NEW_ITEM_DAYS * SECONDS_PER_DAY
    return inputs.bestsellers[(first_sold > new_since) & (first_sold <= inputs.snapshot_ts)]
