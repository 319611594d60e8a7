"""Ranking of candidates: from predictions to an order under the slate policy.

candidates ─ ranker ─▶ p(click), p(purchase), E[spend] ─ objective ─▶ score ─ slate policy ─▶ RankedItems
     ╰─ without predictions, by inner product ─▶ Retrieved
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..storage.bundle import Candidates
from .slate_policy import SlatePolicy, objective, select_slates


class Predictions(NamedTuple):
    """The ranker's output for n candidates."""

    click: NDArray[np.float32]  # [n] probability
    purchase: NDArray[np.float32]  # [n] probability of click and purchase
    spend: NDArray[np.float32]  # [n] expected spend of a purchase


class RankedItems(NamedTuple):
    """n items in the order of a tier.

    Tuples, because slates are cached: arrays would pin the memory around them, and the garbage collector
    would visit lists again and again.
    """

    tier: str
    item_row: tuple[int, ...]
    source_mask: tuple[int, ...]  # bits of slate_builder.SOURCES
    click: tuple[float, ...] | None = None
    purchase: tuple[float, ...] | None = None
    value: tuple[float, ...] | None = None
    propensity: tuple[float, ...] | None = None  # None: 1 for every item

    @classmethod
    def from_predictions(
        cls,
        candidates: Candidates,
        predictions: Predictions,
        columns: NDArray[np.int64],
        propensity: tuple[float, ...] | None = None,
    ) -> "RankedItems":
        """The candidates at positions `columns` [n], in that order, as the ranked tier shows them."""
        purchase = predictions.purchase[columns]
        return cls(
            "ranked",
            tuple(candidates.item.numpy()[columns].tolist()),
            tuple(candidates.source_mask.numpy()[columns].tolist()),
            tuple(predictions.click[columns].tolist()),
            tuple(purchase.tolist()),
            tuple((purchase * predictions.spend[columns]).tolist()),
            propensity,
        )


class Retrieved(NamedTuple):
    """Candidates without predictions: the result if the ranker fails."""

    item_row: NDArray[np.int64]  # [n], -1 for none
    source_mask: NDArray[np.int64] | None = None  # [n] bits of slate_builder.SOURCES; None: the index alone
    score: NDArray[np.float32] | None = None  # [n] inner products; None: already in order

    def to_ranked_items(self) -> RankedItems:
        order = (
            np.arange(len(self.item_row)) if self.score is None else np.argsort(-self.score, kind="stable")
        )
        order = order[self.item_row[order] >= 0]
        mask = np.ones(len(self.item_row), np.int64) if self.source_mask is None else self.source_mask
        return RankedItems("retrieval", tuple(self.item_row[order].tolist()), tuple(mask[order].tolist()))


class SlateSelector:
    """Selects slates from predictions, by the item columns of a bundle.

    Args:
        leaf: [N+1] leaf category by item row.
        item_vectors: [N+1, D+8] uint8, row-wise int8.
        item_margins: [N+1], without NaN; None if the policy counts no margins.
    """

    def __init__(
        self,
        leaf: NDArray[np.int64],
        item_vectors: NDArray[np.uint8],
        item_margins: NDArray[np.floating] | None,
    ) -> None:
        self.leaf, self.item_vectors, self.item_margins = leaf, item_vectors, item_margins

    def score(
        self,
        policy: SlatePolicy,
        item: NDArray[np.int64],
        purchase: NDArray[np.float32],
        spend: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """The policy's objective for candidates of any shape."""
        margin = None if self.item_margins is None else self.item_margins[item]
        return objective(purchase, spend, policy.revenue_weight, margin)

    def select(
        self,
        policy: SlatePolicy,
        eligible: NDArray[np.bool_],
        item: NDArray[np.int64],
        purchase: NDArray[np.float32],
        spend: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Positions [≤ 6] of the slate among the candidates [n] of one checkout, best first.

        Args:
            eligible: [N+1] bool, by item row.
        """
        columns: NDArray[np.int64] = self.select_batch(
            policy, eligible, item[None], purchase[None], spend[None]
        )[0]
        return columns[columns >= 0]

    def select_batch(
        self,
        policy: SlatePolicy,
        eligible: NDArray[np.bool_],
        item: NDArray[np.int64],
        purchase: NDArray[np.float32],
        spend: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Slates [B, 6] of B checkouts with candidates [B, C], padded by row 0; -1 for an empty slot."""
        score = self.score(policy, item, purchase, spend)
        return select_slates(score, eligible[item], item, self.leaf, self.item_vectors, policy).column
