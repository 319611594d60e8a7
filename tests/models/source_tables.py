"""The shipped candidate sources over random tables."""

from importlib import import_module

import torch

from models.candidates.item_lists import ItemLists
from models.candidates.source import Source, SourceInputs
from models.ranking.features.selection import FeatureSelection
from models.schema import Catalog
from tests.models.shops import NOW, offsets

SHIPPED_SOURCES = (
    "ann", "buy_again", "co_purchase", "category", "popularity", "recency", "ease", "transitions",
)  # fmt: skip
SHIPPED_SCORED = ("co_purchase", "category", "ease", "transitions")  # those with lists
SELECTION = FeatureSelection(sources=SHIPPED_SOURCES, scored=SHIPPED_SCORED)


def shipped_sources(**limits: int) -> dict[str, Source]:
    """The shipped sources; a limit is 3 unless it is given."""
    return {
        name: import_module(f"models.candidates.{name}").source(limits.get(name, 3))
        for name in SHIPPED_SOURCES
    }


def random_lists(seed: int, n_items: int, longest: int = 4) -> ItemLists:
    """Distinct items by item [N+1]; some items have none."""
    g = torch.Generator().manual_seed(seed)
    rows = [
        torch.randperm(n_items - 1, generator=g)[: int(torch.randint(0, longest + 1, [1], generator=g))] + 1
        for _ in range(n_items)
    ]
    item = torch.cat(rows)
    scores = torch.rand(item.shape, generator=g)
    return ItemLists(offsets(torch.tensor([len(row) for row in rows])), item, scores)


def random_inputs(seed: int, catalog: Catalog) -> SourceInputs:
    """Snapshot 0 of a catalog, with random neighbours, and with some new items."""
    n_items = catalog.leaf.numel()
    return SourceInputs(
        catalog=catalog,
        snapshot=0,
        snapshot_ts=NOW,
        neighbours={
            "copurchase_neighbours": random_lists(seed, n_items),
            "ease_neighbours": random_lists(seed + 1, n_items),
            "transition_neighbours": random_lists(seed + 2, n_items),
        },
    )
