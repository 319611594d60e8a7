"""What a treatment may not make worse by more than a margin.

A test that finds no difference says little: few users find none either. So each guardrail is a test of
non-inferiority, at 5 % on one side: it is kept when the data exclude that the margin is passed. All have to
be kept at once, which needs no correction for their number (Berger 1982, the intersection-union test).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experimentation.ab.estimate import Estimate, Metric, of_arm, quantile
from experimentation.ab.sessions import Log, Sums

SIDE = 1.645  # standard errors of 5 % on one side
NOTHING = Estimate(math.nan, math.nan)


class Guardrail(NamedTuple):
    """A figure and by how much it may rise, or fall if `margin` is below 0."""

    key: str
    name: str
    margin: float
    relative: bool  # to the control
    metric: Metric | None = None  # none for the latency
    needs: str = ""  # what it is not measured without


GUARDRAILS = (
    Guardrail("latency", "p99 latency, ms", 0.1, True, needs="a log with latency_ms"),
    Guardrail("fallback", "share of slates not ranked", 0.01, False, Metric("", "fallbacks", "sessions")),
    Guardrail(
        "returns", "returned share of revenue", 0.01, False, Metric("", "returned", "revenue"), "--orders"
    ),
    Guardrail(
        "diversity", "leaf categories per slate", -0.05, True, Metric("", "categories", "sessions"), "--items"
    ),
)


USUAL = ", ".join(f"{one.key}={one.margin:g}" for one in GUARDRAILS)


class Guarded(NamedTuple):
    """How a guardrail stands; `used` is the part of the margin that is used up, with an interval of 90 %."""

    name: str
    control: float
    treatment: float
    limit: float  # that the treatment may not pass
    used: float
    low: float
    high: float
    state: str  # kept, broken, open (not enough data) or not measured
    needs: str = ""


def guard(
    log: Log, sums: Sums, control: NDArray, treatment: NDArray, margins: Mapping[str, float]
) -> list[Guarded]:
    """All guardrails for the users [U] bool of two arms; `margins` by key go before those of GUARDRAILS."""
    return [
        judge(
            one._replace(margin=margins.get(one.key, one.margin)),
            _figure(one, log, sums, control),
            _figure(one, log, sums, treatment),
        )
        for one in GUARDRAILS
    ]


def judge(rail: Guardrail, control: Estimate, treatment: Estimate) -> Guarded:
    """How a treatment stands to a guardrail."""
    factor = 1 + rail.margin if rail.relative else 1.0
    limit = factor * control.value + (0.0 if rail.relative else rail.margin)
    room = limit - control.value  # below 0 for what may fall
    if room == 0 or math.isnan(room) or math.isnan(treatment.value):
        nan = math.nan
        return Guarded(
            rail.name, control.value, treatment.value, nan, nan, nan, nan, "not measured", rail.needs
        )
    used = (treatment.value - control.value) / room
    # The limit is uncertain as well, for it follows from the control.
    half = SIDE * math.hypot(treatment.error, factor * control.error) / abs(room)
    state = "kept" if used + half < 1 else "broken" if used - half > 1 else "open"
    return Guarded(rail.name, control.value, treatment.value, limit, used, used - half, used + half, state)


def parse(text: str) -> tuple[str, float]:
    """`latency=0.1`. Raises ValueError for another name or a margin of the wrong side."""
    key, _, value = text.partition("=")
    known = {one.key: one for one in GUARDRAILS}
    try:
        margin = float(value)
    except ValueError:
        margin = math.nan
    if key not in known or not margin * known[key].margin > 0 or math.isinf(margin):
        raise ValueError(f"--margin {text}: expected one of these, with a value of the same sign: {USUAL}")
    return key, margin


def _figure(rail: Guardrail, log: Log, sums: Sums, users: NDArray) -> Estimate:
    if rail.metric is None:
        known = users[log.session] & ~np.isnan(log.latency)
        return quantile(log.latency[known], log.session[known], 0.99) if known.any() else NOTHING
    if rail.metric.numerator not in sums:
        return NOTHING
    return of_arm(rail.metric, {name: column[users] for name, column in sums.items()})
