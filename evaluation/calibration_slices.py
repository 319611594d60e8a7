"""Calibration of every task, over all candidates and in each slice of them.

A model can be calibrated on average but not for new items, expensive items, or items that the user never
bought.

| group | slices |
|---|---|
| all | every candidate |
| source | candidates of one source; a candidate may have several sources |
| history with the item | bought before by this user (the basket just paid included), or never |
| popularity | deciles of the orders with the item in the 28 days before the checkout's snapshot |
| price | deciles of the item's usual price at that snapshot |
| earlier checkouts | number of the user's earlier checkouts: 0 to 4, 5 to 19, ... |
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from evaluation import protocol
from evaluation.jagged import Array, segment_ids
from evaluation.metrics import calibration_curve, ece
from evaluation.scoring import ScoredCandidates
from evaluation.task_outputs import measured_rows
from models.ranking.tasks import Task
from models.schema import Catalog

EARLIER_CHECKOUT_EDGES = (protocol.COLD_USER_CHECKOUTS, 20, 50, 100, 200)  # lower bounds, but for the first
CURVE_SLICES = (
    ("all", "all"),
    ("history with the item", "bought before"),
    ("history with the item", "never"),
)


def calibration_slices(
    scored: ScoredCandidates, data: protocol.Split, catalog: Catalog, sources: Sequence[str] = ()
) -> Iterator[tuple[str, str, Array]]:
    """Yield (group, slice, mask) for every slice that has candidates.

    The mask [P] bool selects the slice's candidates. `sources[i]` is the name of the source of bit i of
    `scored.source`.
    """
    row = segment_ids(scored.offsets)
    yield "all", "all", np.ones(len(row), bool)
    for bit, name in enumerate(sources):
        if (mask := scored.source >> bit & 1 == 1).any():
            yield "source", name, mask
    is_purchased = protocol.purchased_before(data, row, scored.item)
    for name, mask in (("bought before", is_purchased), ("never", ~is_purchased)):
        if mask.any():
            yield "history with the item", name, mask
    snapshot = data.snapshot[row]
    for name, table in (("popularity", catalog.orders_28d), ("price", catalog.price)):
        yield from _bin_slices(name, table.numpy()[snapshot, scored.item], decile_edges)
    yield from _bin_slices(
        "earlier checkouts", data.n_earlier_checkouts[row], lambda _: np.array(EARLIER_CHECKOUT_EDGES)
    )


def decile_edges(values: Array) -> Array:
    """Return the inner edges of ten bins with about equally many values.

    If many values are equal, there are fewer bins.
    """
    return np.unique(np.quantile(values, np.arange(1, 10) / 10, method="higher")) if len(values) else values


def _bin_slices(
    group: str, values: Array, make_edges: Callable[[Array], Array]
) -> Iterator[tuple[str, str, Array]]:
    code = np.searchsorted(make_edges(values), values, side="right")
    for bin_ in np.unique(code):
        mask = code == bin_
        low, high = values[mask].min(), values[mask].max()
        yield group, f"{low:.4g}" if low == high else f"{low:.4g} – {high:.4g}", mask


def calibration_rows(
    scored: ScoredCandidates,
    tasks: Sequence[Task],
    data: protocol.Split,
    catalog: Catalog,
    sources: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return a row for each task and slice that has candidates on which the task is measured.

    `predicted` and `observed` are means over these candidates (task_outputs.measured_rows). `ratio` is
    predicted / observed, NaN if nothing was observed. `ece` is the expected calibration error (metrics.ece);
    only probabilities have it. `sources` are the names that `calibration_slices` takes.
    """
    measured = [measured_rows(scored.labels, tasks, t) & scored.is_known[:, t] for t in range(len(tasks))]
    rows: list[dict[str, Any]] = []
    for group, name, mask in calibration_slices(scored, data, catalog, sources):
        for t, task in enumerate(tasks):
            pairs = mask & measured[t]
            if not pairs.any():
                continue
            label, prediction = scored.labels[pairs, t], scored.outputs[pairs, t]
            row = {"task": task.name, "group": group, "slice": name}
            row |= _predicted_and_observed(label, prediction)
            rows.append(row | ({"ece": ece(label > 0, prediction)} if task.is_binary else {}))
    return rows


def _predicted_and_observed(label: Array, prediction: Array) -> dict[str, Any]:
    observed = float(label.mean(dtype=np.float64))
    predicted = float(prediction.mean(dtype=np.float64))
    return {
        "pairs": len(label),
        "predicted": predicted,
        "observed": observed,
        "ratio": predicted / observed if observed else float("nan"),
    }


def reliability_curves(
    scored: ScoredCandidates, tasks: Sequence[Task], data: protocol.Split, catalog: Catalog
) -> list[dict[str, Any]]:
    """Return the reliability curves of the binary tasks.

    A task has a curve for all items, one for items bought before, and one for other items. `predicted`,
    `observed` and `pairs` are lists over 15 bins of equal mass. A slice without positives has no curve.
    """
    rows = []
    for group, name, mask in calibration_slices(scored, data, catalog):
        if (group, name) not in CURVE_SLICES:
            continue
        for t, task in enumerate(tasks):
            pairs = mask & measured_rows(scored.labels, tasks, t) & scored.is_known[:, t]
            label = scored.labels[pairs, t] > 0
            if not task.is_binary or not label.any():
                continue
            curve = calibration_curve(label, scored.outputs[pairs, t])
            points = {key: values.tolist() for key, values in curve._asdict().items()}
            rows.append({"task": task.name, "slice": name, **points})
    return rows
