"""Writes reasons: the strongest true claim about an item, in the language of the request.

    pinned ▸ bought together with a line just paid ▸ bought before ▸ bought with the basket ▸ bought next
    ▸ bought by similar shoppers ▸ popular in its category ▸ popular ▸ no claim

A claim is based on the candidate source that proposed the item, and on the basket if it names a line. The
slate of an earlier order (tier `cached`) makes no unproven claim about the current basket.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checkout import Reason
from ..storage.bundle import Bundle
from ..storage.formats import COPURCHASE_FILE
from ..storage.mapped_table import MappedTable
from .messages import Messages, read_messages

MAX_SEEDS = 50  # basket lines whose lists are searched
POPULAR_SHARE = 0.1  # of the available items, by sales, are popular
# Sources whose proposals prove a claim, the strongest first; a claim by its code in messages.toml.
CLAIMS = {
    "buy_again": "buy_again",
    "co_purchase": "basket",
    "transitions": "transitions",
    "ease": "ease",
    "category": "category",
    "popularity": "popular",
}
PINNED = "pinned"  # the source of a pinned item


class CopurchaseLists(NamedTuple):
    """Jagged lists: for each item, the items that are bought with it."""

    offsets: NDArray[np.int32]  # [R+1]
    item: NDArray[np.int32]  # [ΣM] rows
    score: NDArray[np.float32]  # [ΣM]

    def strongest_seeds(self, rows: Sequence[int], basket_rows: Sequence[int]) -> dict[int, int]:
        """Returns item row → the basket row with which it is bought most. Items in no list are left out."""
        n_rows = len(self.offsets) - 1
        seeds = [row for row in dict.fromkeys(basket_rows) if 0 < row < n_rows][:MAX_SEEDS]
        if not rows or not seeds:
            return {}
        bounds = [(self.offsets.item(row), self.offsets.item(row + 1)) for row in seeds]
        item = np.concatenate([self.item[start:end] for start, end in bounds])
        score = np.concatenate([self.score[start:end] for start, end in bounds])
        seed = np.repeat(seeds, [end - start for start, end in bounds])
        strongest: dict[int, int] = {}
        for row in rows:
            positions = np.flatnonzero(item == row)
            if len(positions):
                strongest[row] = int(seed[positions[score[positions].argmax()]])
        return strongest


def read_copurchase_lists(bundle: Bundle) -> CopurchaseLists | None:
    """The lists of the source `co_purchase`, read in place; None for a bundle without the file.

    The file is missing in exports of earlier releases, and if the `co_purchase` source reads other lists.
    """
    if COPURCHASE_FILE not in bundle.manifest["files"]:
        return None
    batch = MappedTable(str(bundle.folder / COPURCHASE_FILE)).batch
    lists = batch["item"]
    return CopurchaseLists(
        lists.offsets.to_numpy(), lists.values.to_numpy(), batch["score"].values.to_numpy()
    )


class ReasonWriter:
    """Writes the reasons of a slate's items.

    Args:
        title, category: [N+1] titles and category paths, by item row.
    """

    def __init__(self, bundle: Bundle, title: Sequence[str], category: Sequence[str]) -> None:
        self.title, self.category = title, category
        self.messages: Messages = read_messages()
        self._lists = read_copurchase_lists(bundle)
        self._rank = bundle.fallback_rank
        self._n_popular = max(100, int(POPULAR_SHARE * len(bundle.items_by_popularity)))

    def reasons(
        self,
        sources: Mapping[int, Sequence[str]],
        basket_rows: Sequence[int],
        language: str,
        is_earlier_basket: bool = False,
    ) -> dict[int, Reason]:
        """The reason of each item, by row.

        Args:
            sources: item row → candidate sources or fallback lists that proposed the item.
            is_earlier_basket: whether the sources belong to another order.
        """
        together = [row for row, names in sources.items() if "co_purchase" in names and PINNED not in names]
        seeds = {} if self._lists is None else self._lists.strongest_seeds(together, basket_rows)
        reasons = {}
        for row, names in sources.items():
            code, params = self._claim(row, names, seeds.get(row, 0), is_earlier_basket)
            reasons[row] = Reason(code, params, self.messages.text(language, code, params))
        return reasons

    def _claim(
        self, row: int, names: Sequence[str], seed: int, is_earlier_basket: bool
    ) -> tuple[str, dict[str, str]]:
        """The code of the strongest true claim, and the fields of its text."""
        if PINNED in names:
            return "pinned", {}
        if seed and (title := self.title[seed]):
            return "co_purchase", {"item": title}
        for source, code in CLAIMS.items():
            if source not in names:
                continue
            if code == "basket" and is_earlier_basket:
                continue
            if code == "category":
                category = self.category[row].rpartition("/")[2]
                if category:
                    return code, {"category": category}
                continue
            if code == "popular" and not 0 <= self._rank[row] < self._n_popular:
                continue
            return code, {}
        return "for_you", {}
