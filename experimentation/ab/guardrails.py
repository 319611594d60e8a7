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

from experimentation.ab.estimate import Metric, PointEstimate, estimate_arm, estimate_quantile
from experimentation.ab.sessions import SessionLog, UserSums

ONE_SIDED_Z = 1.645  # standard errors of 5 % on one side
NOT_MEASURED = PointEstimate(math.nan, math.nan)


class Guardrail(NamedTuple):
    """A figure and by how much it may rise, or fall if `margin` is below 0."""

    key: str
    name: str
    margin: float
    relative: bool  # to the control
    metric: Metric | None = None  # none for the latency
    requires: str = ""  # what it is not measured without


GUARDRAILS = (
    Guardrail("latency", "p99 latency, ms", 0.1, True, requires="a log with latency_ms"),
    Guardrail("fallback", "share of slates not ranked", 0.01, False, Metric("", "fallbacks", "sessions")),
    Guardrail(
        "returns", "returned share of revenue", 0.01, False, Metric("", "returned", "revenue"), "--orders"
    ),
    Guardrail(
        "diversity", "leaf categories per slate", -0.05, True, Metric("", "categories", "sessions"), "--items"
    ),
)


DEFAULT_MARGINS = ", ".join(f"{one.key}={one.margin:g}" for one in GUARDRAILS)


class GuardrailResult(NamedTuple):
    """How a guardrail stands; `used` is the part of the margin that is used up, with an interval of 90 %."""

    name: str
    control: float
    treatment: float
    limit: float  # that the treatment may not pass
    margin_used: float
    low: float
    high: float
    state: str  # kept, broken, open (not enough data) or not measured
    requires: str = ""


def check_guardrails(
    log: SessionLog, sums: UserSums, control: NDArray, treatment: NDArray, margins: Mapping[str, float]
) -> list[GuardrailResult]:
    """All guardrails for the users [U] bool of two arms; `margins` by key go before those of GUARDRAILS."""
    return [
        check_guardrail(
            one._replace(margin=margins.get(one.key, one.margin)),
            _estimate_metric(one, log, sums, control),
            _estimate_metric(one, log, sums, treatment),
        )
        for one in GUARDRAILS
    ]


def check_guardrail(rail: Guardrail, control: PointEstimate, treatment: PointEstimate) -> GuardrailResult:
    """How a treatment stands to a guardrail."""
    factor = 1 + rail.margin if rail.relative else 1.0
    limit = factor * control.value + (0.0 if rail.relative else rail.margin)
    room = limit - control.value  # below 0 for what may fall
    if room == 0 or math.isnan(room) or math.isnan(treatment.value):
        nan = math.nan
        return GuardrailResult(
            rail.name, control.value, treatment.value, nan, nan, nan, nan, "not measured", rail.requires
        )
    used = (treatment.value - control.value) / room
    # The limit is uncertain as well, for it follows from the control.
    half = ONE_SIDED_Z * math.hypot(treatment.se, factor * control.se) / abs(room)
    state = "kept" if used + half < 1 else "broken" if used - half > 1 else "open"
    return GuardrailResult(
        rail.name, control.value, treatment.value, limit, used, used - half, used + half, state
    )


def parse_margin(text: str) -> tuple[str, float]:
    """`latency=0.1`. Raises ValueError for another name or a margin of the wrong side."""
    key, _, value = text.partition("=")
    known = {one.key: one for one in GUARDRAILS}
    try:
        margin = float(value)
    except ValueError:
        margin = math.nan
    if key not in known or not margin * known[key].margin > 0 or math.isinf(margin):
        raise ValueError(
            f"--margin {text}: expected one of these, with a value of the same sign: {DEFAULT_MARGINS}"
        )
    return key, margin


def _estimate_metric(rail: Guardrail, log: SessionLog, sums: UserSums, users: NDArray) -> PointEstimate:
    if rail.metric is None:
        known = users[log.slate_user_row] & ~np.isnan(log.latency_ms)
        return (
            estimate_quantile(log.latency_ms[known], log.slate_user_row[known], 0.99)
            if known.any()
            else NOT_MEASURED
        )
    if rail.metric.numerator not in sums:
        return NOT_MEASURED
    return estimate_arm(rail.metric, {name: column[users] for name, column in sums.items()})
