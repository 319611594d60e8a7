"""Incremental revenue from a log of shown and withheld slates: per slate, item category and source."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experimentation.uplift.checkouts import GhostLog, SlotGroups
from experimentation.uplift.estimate import (
    Contrast,
    Estimate,
    contrast,
    hajek_mean,
    incremental_share,
    withheld_ratio_p_value,
)

SRM_ALPHA = 0.01  # p-value of the withheld share below which no estimate is made
MIN_WITHHELD_SLOTS = 100  # of a category or source, below which its estimate is left out
SLATE_ITEMS, OTHER_ITEMS, ALL_ORDERS = "items of the slate", "all other items", "all orders"


class Measure(NamedTuple):
    """Revenue per checkout if the slate is shown, and if the slate is withheld."""

    name: str
    shown: float
    withheld: float
    incremental: Estimate


class GroupMeasure(NamedTuple):
    """Revenue of the slots of a category or source.

    Rows of sources overlap, because a slot may have several sources.
    """

    name: str
    slots: int  # shown and withheld
    slots_per_slate: float
    shown: float  # revenue per slate
    withheld: float
    incremental: Estimate  # per slate
    per_slot: Estimate


class UpliftResult(NamedTuple):
    """Incremental revenue; `measures` is empty if the withheld checkouts are too few or too many."""

    shown: int  # checkouts
    withheld: int
    expected_withheld: float
    users: int
    srm_p_value: float
    measures: tuple[Measure, ...]  # SLATE_ITEMS, OTHER_ITEMS, ALL_ORDERS
    attributed: float  # revenue after a click, per shown slate
    share: Estimate  # of it that is incremental
    groups: dict[str, list[GroupMeasure]]  # by category and by source, the largest first
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def has_srm(self) -> bool:
        """Whether more or fewer checkouts were withheld than planned."""
        return self.srm_p_value < SRM_ALPHA


def estimate_uplift(log: GhostLog) -> UpliftResult:
    """Return the incremental revenue of a log's slates."""
    assignment = log.assignment
    shown = int(assignment.is_shown.sum())
    result = UpliftResult(
        shown=shown,
        withheld=len(assignment.is_shown) - shown,
        expected_withheld=float(assignment.withhold.sum()),
        users=len(np.unique(assignment.user_row)),
        srm_p_value=withheld_ratio_p_value(assignment),
        measures=(),
        attributed=float("nan"),
        share=Estimate(*[float("nan")] * 5),
        groups={},
        warnings=(),
        notes=log.notes,
    )
    if result.has_srm:
        return result
    covariates = revenue_covariates(log)
    contrasts = {
        name: contrast(assignment, outcome, covariates)
        for name, outcome in (
            (SLATE_ITEMS, log.slate_revenue),
            (OTHER_ITEMS, log.order_revenue - log.slate_revenue),
            (ALL_ORDERS, log.order_revenue),
        )
    }
    measures = tuple(Measure(name, *_values(difference)) for name, difference in contrasts.items())
    groups, notes = {}, list(log.notes)
    for kind, slots in log.groups.items():
        groups[kind] = sorted(_group_measures(log, slots), key=lambda group: -group.slots)
        if left_out := len(slots.names) - len(groups[kind]):
            notes.append(
                f"{left_out} of {len(slots.names)} groups by {kind} have fewer than {MIN_WITHHELD_SLOTS} "
                "withheld slots and are left out."
            )
    return result._replace(
        measures=measures,
        attributed=hajek_mean(assignment, log.attributed, shown=True)[0],
        share=incremental_share(assignment, contrasts[SLATE_ITEMS], log.attributed),
        groups=groups,
        warnings=tuple(_warnings(measures)),
        notes=tuple(notes),
    )


def uplift_sentence(result: UpliftResult) -> str:
    """Return the result in one or two sentences."""
    if result.has_srm:
        return (
            f"Sample ratio mismatch: {result.withheld:,} checkouts were withheld, "
            f"{result.expected_withheld:,.0f} expected (p = {result.srm_p_value:.1g}). No estimate is valid. "
            "Find the missing rows of the log."
        )
    slate = result.measures[0].incremental
    interval = f"95% interval {slate.low:+,.2f} to {slate.high:+,.2f}"
    if not slate.is_significant:
        return f"Not enough data: a slate adds {slate.value:+,.2f} of revenue ({interval})."
    verb = "adds" if slate.value > 0 else "costs"
    sentence = f"A slate {verb} {abs(slate.value):,.2f} of revenue ({interval})."
    if np.isnan(result.share.value):
        return sentence
    share = result.share
    return (
        f"{sentence} That is {share.value:.0%} ({share.low:.0%} to {share.high:.0%}) of the "
        f"{result.attributed:,.2f} that a click credits it with."
    )


def _warnings(measures: tuple[Measure, ...]) -> Iterator[str]:
    _, other, orders = measures
    if other.incremental.is_significant:
        direction, meaning = (
            ("more", "the slate also sells what it does not show")
            if other.incremental.value > 0
            else ("less", "a part of what the slate sells replaces other purchases")
        )
        yield (
            f"Warning: with a slate users buy {direction} of all other items "
            f"({other.incremental.low:+,.2f} to {other.incremental.high:+,.2f} per checkout): {meaning}. "
            f"Go by all orders: {orders.incremental.value:+,.2f} per checkout "
            f"({orders.incremental.low:+,.2f} to {orders.incremental.high:+,.2f})."
        )


def _group_measures(log: GhostLog, slots: SlotGroups) -> Iterator[GroupMeasure]:
    assignment, n = log.assignment, len(log.order_revenue)
    for group, name in enumerate(slots.names):
        rows = slots.group == group
        dense = (
            np.bincount(slots.checkout[rows], column[rows], n)
            for column in (slots.slots, slots.revenue, slots.predicted)
        )
        count, revenue, predicted = dense  # [n] each
        if count[~assignment.is_shown].sum() < MIN_WITHHELD_SLOTS:
            continue
        # The slate is chosen before the coin, so the number of its slots is a covariate too.
        difference = contrast(assignment, revenue, np.column_stack([predicted, count]))
        per_slate = float(count.mean())
        yield GroupMeasure(
            name,
            int(count.sum()),
            per_slate,
            *_values(difference),
            _scale(difference.incremental, 1 / per_slate),
        )


def _values(difference: Contrast) -> tuple[float, float, Estimate]:
    return difference.shown, difference.withheld, difference.incremental


def _scale(estimate: Estimate, factor: float) -> Estimate:
    return estimate._replace(
        value=factor * estimate.value,
        se=factor * estimate.se,
        low=factor * estimate.low,
        high=factor * estimate.high,
    )


def revenue_covariates(log: GhostLog) -> NDArray:
    """Return the covariates [n, 2] of each checkout: predicted revenue and earlier revenue."""
    return np.column_stack([log.predicted, log.revenue_before])
