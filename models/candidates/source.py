"""A candidate source: how it proposes items, the table that it reads, and its limit.

A source is a module of this folder, or of the user, with a function that returns its Source:

    # models/candidates/co_purchase.py
    def source(limit: int) -> Source:
        return Source(limit, seed_lists=SeedLists(BasketItems(), "copurchase_neighbours"))

There are four ways to propose; the sources of a way share its operations (models/candidates/sources.py):

    index           the items nearest to the query vector
    global_items    a list, the same for all checkouts
    own_events      the user's own items, by decayed counts of events
    seed_lists      sums of item lists over seeds: basket items, their categories, own or recent items
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from models.candidates.item_lists import ItemLists
from models.schema import HISTORY_KINDS, Catalog

INDEX_SOURCE = "ann"  # serving searches the index for this source; bit 0 marks its proposals
MAX_LIMIT = 10_000
MAX_SOURCES = 31  # prepared source masks are int32
WAYS = ("index", "global_items", "own_events", "seed_lists")


@dataclass(frozen=True, kw_only=True)
class SourceInputs:
    """Inputs of the sources' tables, at one snapshot."""

    catalog: Catalog
    snapshot: int  # row of the catalog's snapshot fields
    snapshot_ts: int  # Unix seconds
    neighbours: Mapping[str, ItemLists]  # prepared file of neighbours, without suffix → lists by item [N+1]
    prepared_folder: Path | None = None  # for a source that reads further prepared files

    @cached_property
    def bestsellers(self) -> Tensor:
        """The available items [n] by falling orders_28d. Without sales they are in any order."""
        available = self.catalog.available
        orders = self.catalog.orders_28d[self.snapshot].masked_fill(~available, 0)  # [N+1]
        ranked = orders.argsort(descending=True, stable=True)
        ranked = ranked[orders[ranked] > 0]
        return ranked if ranked.numel() else available.nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True)
class OwnEvents:
    """Counts of the user's own events by item. An event loses half its weight in `half_life` days.

    Events of items in the source's own `global_items` are ignored, because the source proposes these items to
    everyone.
    """

    kinds: tuple[str, ...]  # of models.schema.HISTORY_KINDS
    half_life: float
    counts_basket: bool = False  # basket lines count as events of age zero


@dataclass(frozen=True)
class BasketItems:
    """The basket's items are the seeds."""


@dataclass(frozen=True)
class BasketCategories:
    """The leaf categories of the basket's items are the seeds. The source has one list per leaf category."""


@dataclass(frozen=True)
class OwnItems:
    """The seeds are the user's top `n` own items, ranked by the `own_events` of the source `events`.

    The weight of a seed falls with its rank. The source proposes no item that the user's own events contain.
    """

    events: str
    n: int


@dataclass(frozen=True)
class RecentItems:
    """The basket's items, the user's latest `n` purchases and the other items of their orders are the seeds.

    A seed starts with the weight 1. Each later order of the user, the basket included, multiplies it by
    `decay`. The source may propose items that the user has bought.
    """

    n: int
    decay: float


@dataclass(frozen=True)
class SeedLists:
    """Lists of items by seed. An item's score is the sum of weight · list score over the seeds.

    The scores of every source with lists are features of the ranker.

    Args:
        table: the name of a prepared file of neighbours (data/examples/neighbour_tables.py), or the function
            that makes the lists.
        scale: multiplies the list scores; None divides them by their mean. The ranker reads log(1 + score),
            so scores near 1 carry most information.
    """

    seeds: BasketItems | BasketCategories | OwnItems | RecentItems
    table: str | Callable[[SourceInputs], ItemLists]
    scale: float | None = None

    def read_table(self, inputs: SourceInputs) -> ItemLists:
        """The lists, with scaled scores.

        Raises ValueError for a wrong number of lists, and for items that the catalog lacks.
        """
        lists = inputs.neighbours[self.table] if isinstance(self.table, str) else self.table(inputs)
        rows, items = lists.offsets.numel() - 1, inputs.catalog.leaf.numel()
        if rows != items and not isinstance(self.seeds, BasketCategories):
            raise ValueError(
                f"there are {rows} lists of items: expected {items}, one for row 0 and one for each item"
            )
        _check_item_rows("seed_lists", lists.item, items)
        mean = lists.score.mean().clamp_min(1e-12) if lists.score.numel() else 1.0
        score = lists.score / mean if self.scale is None else lists.score * self.scale
        return lists._replace(score=score)


@dataclass(frozen=True)
class Source:
    """How a source proposes at most `limit` items. The limit 0 turns the source off.

    A source proposes in one way, or by `global_items` and `own_events`. Other combinations raise ValueError,
    because they could propose an item twice.
    """

    limit: int
    index: bool = False
    global_items: Callable[[SourceInputs], Tensor] | None = None  # [n] distinct items, the best first
    own_events: OwnEvents | None = None
    seed_lists: SeedLists | None = None

    def __post_init__(self) -> None:
        ways = [name for name in WAYS if getattr(self, name)]
        if len(ways) != 1 and ways != ["global_items", "own_events"]:
            raise ValueError(
                f"a source proposes by {' and '.join(ways) or 'nothing'}: expected one of {', '.join(WAYS)}, "
                "or global_items and own_events"
            )
        if not 0 <= self.limit <= MAX_LIMIT:
            raise ValueError(f"limit={self.limit}: expected 0 to {MAX_LIMIT}")
        for kind in self.own_events.kinds if self.own_events else ():
            if kind not in HISTORY_KINDS:
                raise ValueError(f"own_events of kind {kind!r}: expected {', '.join(HISTORY_KINDS)}")

    @property
    def neighbours_file(self) -> str | None:
        """The prepared file that the source reads. None if the source reads no file or is off."""
        if self.limit > 0 and self.seed_lists and isinstance(self.seed_lists.table, str):
            return self.seed_lists.table
        return None

    @property
    def seed_events(self) -> str | None:
        """The source whose own items are the seeds. None without such seeds, or if this source is off."""
        if self.limit > 0 and self.seed_lists and isinstance(self.seed_lists.seeds, OwnItems):
            return self.seed_lists.seeds.events
        return None

    def global_list(self, inputs: SourceInputs) -> Tensor:
        """The items [n ≤ limit] that the source proposes for all checkouts. Empty if the source is off.

        Raises ValueError for a repeated item, and for an item that the catalog lacks.
        """
        if self.global_items is None or self.limit == 0:
            return torch.zeros(0, dtype=torch.int64)
        items = self.global_items(inputs)[: self.limit]
        if torch.unique(items).numel() < items.numel():
            raise ValueError("global_items returns an item twice")
        _check_item_rows("global_items", items, inputs.catalog.leaf.numel())
        return items


def _check_item_rows(way: str, items: Tensor, rows: int) -> None:
    """Raises ValueError for items [n] that are not rows of a catalog with `rows` rows; row 0 is unknown."""
    if items.dtype != torch.int64:
        raise ValueError(f"{way} returns items of type {items.dtype}: expected torch.int64")
    absent = items[(items < 1) | (items >= rows)]
    if absent.numel():
        raise ValueError(f"{way} returns item {int(absent[0])}: expected item rows, 1 to {rows - 1}")


def check_sources(sources: Mapping[str, Source]) -> None:
    """Raises ValueError for sources that cannot be combined."""
    names = [*sources]
    if len(names) > MAX_SOURCES:
        raise ValueError(f"{len(names)} sources: at most {MAX_SOURCES} have a bit in source_mask")
    if INDEX_SOURCE in names[1:]:
        raise ValueError(f"{INDEX_SOURCE} must be the first source")
    for name, source in sources.items():
        if source.index and name != INDEX_SOURCE:
            raise ValueError(
                f"{name} searches the index, which only {INDEX_SOURCE} can do: give {name} another way to "
                "propose"
            )
        events = source.seed_events
        if events is not None and (events not in sources or sources[events].own_events is None):
            raise ValueError(
                f"{name} starts from the user's items of source {events}, but no source {events} with "
                f"own_events is configured: add {events} (limit 0 if {events} shall propose nothing)"
            )


def scored_sources(sources: Mapping[str, Source]) -> list[str]:
    """The sources with lists, in order, including those with limit 0. The ranker reads their scores."""
    return [name for name, source in sources.items() if source.seed_lists]


def own_event_rankings(sources: Mapping[str, Source]) -> dict[str, OwnEvents]:
    """Returns source → its own events, for sources that are on and for sources whose own items are seeds."""
    seeds = {source.seed_events for source in sources.values()}
    return {
        name: source.own_events
        for name, source in sources.items()
        if source.own_events and (source.limit > 0 or name in seeds)
    }
