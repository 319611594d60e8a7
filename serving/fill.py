"""Six items from what the tiers would show: the best tier that has any left, topped up by those below it."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from numpy.typing import NDArray

from serving.bundle import Bundle
from serving.checkout import Checkout, Item
from serving.fallback import Popular
from serving.slate import SLOTS

# Bit i of a candidate's mask stands for SOURCES[i].
SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency", "collaborative")


class Scored(NamedTuple):
    """Candidates in the order in which a tier would show them."""

    tier: str
    row: NDArray  # [n] int64
    mask: NDArray  # [n] bits of SOURCES
    click: NDArray | None = None
    purchase: NDArray | None = None
    value: NDArray | None = None
    propensity: NDArray | None = None  # None: certain


def fill(
    bundle: Bundle,
    popular: Popular,
    checkout: Checkout,
    allowed: NDArray,
    best: Scored | None,
    reasons: list[str],
) -> tuple[list[Item], str]:
    """Up to six items of `allowed` [N+1] bool, and the tier of the first; `reasons` gets what is missing."""
    taken: set[int] = set()
    items: list[Item] = []
    tiers: list[str] = []

    def take(tier: str, rows: Iterable[int], make: Callable[[int, int], Item]) -> None:
        for place, row in enumerate(map(int, rows)):
            if len(items) == SLOTS:
                return
            if row in taken or not allowed[row]:
                continue
            taken.add(row)
            items.append(make(place, row))
            tiers.append(tier)

    if best is not None:
        take(best.tier, best.row.tolist(), partial(_scored_item, bundle, best))
    if len(items) < SLOTS:
        seeds = bundle.row_of.many(line.item_id for line in checkout.basket)
        take("category", popular.like(seeds), lambda _, row: _item(bundle, row, ("category",)))
        take("popularity", popular.among(allowed), lambda _, row: _item(bundle, row, ("popularity",)))
    if len(set(tiers)) > 1:
        kinds = dict.fromkeys(tiers)
        reasons.append("topped up: " + ", ".join(f"{tiers.count(tier)} {tier}" for tier in kinds))
    if len(items) < SLOTS:
        reasons.append(f"only {len(items)} items are available, asked for and not excluded")
    return items, tiers[0] if tiers else "popularity"


def _scored_item(bundle: Bundle, part: Scored, place: int, row: int) -> Item:
    names = tuple(name for bit, name in enumerate(SOURCES) if part.mask[place] >> bit & 1)
    if part.click is None or part.purchase is None or part.value is None:
        return _item(bundle, row, names)
    click, purchase, value = (float(column[place]) for column in (part.click, part.purchase, part.value))
    propensity = 1.0 if part.propensity is None else float(part.propensity[place])
    return _item(bundle, row, names, click, purchase, value, propensity)


def _item(
    bundle: Bundle, row: int, sources: tuple[str, ...],
    click: float | None = None, purchase: float | None = None, value: float | None = None,
    propensity: float = 1.0,
) -> Item:  # fmt: skip
    title, category = bundle.title[row].as_py() or "", bundle.category[row].as_py() or ""
    return Item(
        bundle.item_id[row].as_py(),
        title,
        category,
        float(bundle.price[row]),
        click,
        purchase,
        value,
        sources,
        propensity,
    )
