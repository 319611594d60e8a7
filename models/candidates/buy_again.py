"""`buy_again`: the items that the user bought, the most frequent and recent first.

Table: none. Seeds: the user's purchases and the basket.
"""

from models.candidates.source import OwnEvents, Source


def source(limit: int, half_life: float = 60.0) -> Source:
    """The source. A purchase loses half its weight in `half_life` days."""
    return Source(limit, own_events=OwnEvents(kinds=("purchase",), half_life=half_life, counts_basket=True))
