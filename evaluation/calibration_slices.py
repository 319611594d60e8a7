"""Calibration of every head, over all candidates and slice by slice.

A model can be right on average and wrong where it matters: for new items, for dear ones, for what the user
never bought. So predicted and observed are compared within slices too.

| group | slices |
|---|---|
| all | every candidate |
| source | proposed by that source; a candidate may have several |
| history with the item | bought before by this user (this basket included), or never |
| popularity | deciles of the orders with the item in the 28 days before the checkout's snapshot |
| price | deciles of the item's usual price at that snapshot |
| earlier checkouts | of the user: 0 to 4, 5 to 19, ... |
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from evaluation import protocol
from evaluation.jagged import Array, segment_ids
from evaluation.metrics import calibration_curve, ece
from evaluation.scoring import ScoredCandidates
from models.candidates.sources import CANDIDATE_SOURCES
from models.schema import Catalog

EARLIER_CHECKOUT_EDGES = (
    protocol.COLD_USER_CHECKOUTS,
    20,
    50,
    100,
    200,
)  # where the buckets of earlier checkouts begin
CURVE_SLICES = (
    ("all", "all"),
    ("history with the item", "bought before"),
    ("history with the item", "never"),
)


def calibration_slices(
    scored: ScoredCandidates, data: protocol.Split, catalog: Catalog
) -> Iterator[tuple[str, str, Array]]:
    """(group, slice, which candidates [P] bool), slices without a candidate left out."""
    row = segment_ids(scored.offsets)
    yield "all", "all", np.ones(len(row), bool)
    for bit, name in enumerate(CANDIDATE_SOURCES):
        if (mask := scored.source >> bit & 1 == 1).any():
            yield "source", name, mask
    own = protocol.purchased_before(data, row, scored.item)
    for name, mask in (("bought before", own), ("never", ~own)):
        if mask.any():
            yield "history with the item", name, mask
    snapshot = data.snapshot[row]
    for name, table in (("popularity", catalog.orders_28d), ("price", catalog.price)):
        yield from _bin_slices(name, table.numpy()[snapshot, scored.item], decile_edges)
    yield from _bin_slices(
        "earlier checkouts", data.n_earlier_checkouts[row], lambda _: np.array(EARLIER_CHECKOUT_EDGES)
    )


def decile_edges(values: Array) -> Array:
    """The inner edges of ten bins of about equal mass; fewer where many values are equal."""
    return np.unique(np.quantile(values, np.arange(1, 10) / 10, method="higher")) if len(values) else values


def _bin_slices(group: str, values: Array, edges_of: Any) -> Iterator[tuple[str, str, Array]]:
    code = np.searchsorted(edges_of(values), values, side="right")
    for bin_ in np.unique(code):
        mask = code == bin_
        low, high = values[mask].min(), values[mask].max()
        yield group, f"{low:.4g}" if low == high else f"{low:.4g} – {high:.4g}", mask


def calibration_rows(
    scored: ScoredCandidates, data: protocol.Split, catalog: Catalog
) -> list[dict[str, Any]]:
    """One row per head and slice.

    `predicted` and `observed` are means: of the probability and the label over all candidates of the slice,
    or of the spend over those that were bought. `ratio` is one over the other, NaN where nothing happened;
    `ece` is the expected calibration error (metrics.ece), for the probabilities only.
    """
    heads = {
        "click": (scored.clicked, scored.click),
        "purchase": (scored.purchased, scored.purchase),
    }
    rows: list[dict[str, Any]] = []
    for group, name, mask in calibration_slices(scored, data, catalog):
        about = {"group": group, "slice": name}
        for head, (label, probability) in heads.items():
            measured = _predicted_and_observed(label[mask], probability[mask])
            rows.append({"head": head, **about, **measured, "ece": ece(label[mask], probability[mask])})
        bought = mask & scored.purchased
        if bought.any():
            rows.append(
                {
                    "head": "value",
                    **about,
                    **_predicted_and_observed(scored.value[bought], scored.spend[bought]),
                }
            )
    return rows


def _predicted_and_observed(observed: Array, predicted: Array) -> dict[str, Any]:
    seen, said = float(observed.mean(dtype=np.float64)), float(predicted.mean(dtype=np.float64))
    return {
        "pairs": len(observed),
        "predicted": said,
        "observed": seen,
        "ratio": said / seen if seen else float("nan"),
    }


def reliability_curves(
    scored: ScoredCandidates, data: protocol.Split, catalog: Catalog
) -> list[dict[str, Any]]:
    """Reliability curves of click and purchase: of all, of what the user bought before, of what it never did.

    `predicted`, `observed` and `pairs` are lists over 15 bins of equal mass.
    """
    rows = []
    for group, name, mask in calibration_slices(scored, data, catalog):
        if (group, name) not in CURVE_SLICES:
            continue
        for head, label, chance in (
            ("click", scored.clicked, scored.click),
            ("purchase", scored.purchased, scored.purchase),
        ):
            curve = calibration_curve(label[mask], chance[mask])
            points = {key: values.tolist() for key, values in curve._asdict().items()}
            rows.append({"head": head, "slice": name, **points})
    return rows
