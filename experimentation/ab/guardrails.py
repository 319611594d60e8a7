"""Guardrails: metrics that a treatment may make worse only up to a margin.

A difference that is not significant does not prove that the treatment is safe: the test may have too few
users. Each guardrail is therefore a one-sided non-inferiority test at 5 %: it passes when the data exclude
the margin. All guardrails have to pass at once, so no correction for their number is needed (Berger 1982,
the intersection-union test).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experimentation.ab.estimate import Metric, PointEstimate, estimate_arm, estimate_quantile
from experimentation.ab.sessions import SessionLog, UserSums

ONE_SIDED_Z = 1.645  # standard errors of 5 % on one side
PASSED, FAILED, INCONCLUSIVE, NOT_MEASURED = "passed", "failed", "inconclusive", "not measured"
MISSING_ESTIMATE = PointEstimate(math.nan, math.nan)


class Guardrail(NamedTuple):
    """A metric and its margin.

    A positive margin is the largest allowed rise, a negative one the largest allowed fall.
    """

    key: str
    name: str
    margin: float
    relative: bool  # to the control
    metric: Metric | None = None  # None for the latency
    requires: str = ""  # input without which it is not measured


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


DEFAULT_MARGINS = ", ".join(f"{guardrail.key}={guardrail.margin:g}" for guardrail in GUARDRAILS)


class GuardrailResult(NamedTuple):
    """A guardrail's state.

    `margin_used` is the share of the margin that the treatment uses, with a 90 % interval.
    """

    name: str
    control: float
    treatment: float
    limit: float  # that the treatment may not pass
    margin_used: float
    low: float
    high: float
    state: str  # PASSED, FAILED, INCONCLUSIVE or NOT_MEASURED
    requires: str = ""


def check_guardrails(
    log: SessionLog, sums: UserSums, control: NDArray, treatment: NDArray, margins: Mapping[str, float]
) -> list[GuardrailResult]:
    """Check all guardrails for the users [U] bool of two arms; `margins` by key override the defaults."""
    return [
        check_guardrail(
            guardrail._replace(margin=margins.get(guardrail.key, guardrail.margin)),
            _estimate_metric(guardrail, log, sums, control),
            _estimate_metric(guardrail, log, sums, treatment),
        )
        for guardrail in GUARDRAILS
    ]


def check_guardrail(
    guardrail: Guardrail, control: PointEstimate, treatment: PointEstimate
) -> GuardrailResult:
    """Test a treatment against a guardrail."""
    control_factor = 1 + guardrail.margin if guardrail.relative else 1.0
    limit = control_factor * control.value + (0.0 if guardrail.relative else guardrail.margin)
    margin = limit - control.value  # negative for a metric that may fall
    if margin == 0 or math.isnan(margin) or math.isnan(treatment.value):
        return GuardrailResult(
            name=guardrail.name,
            control=control.value,
            treatment=treatment.value,
            limit=math.nan,
            margin_used=math.nan,
            low=math.nan,
            high=math.nan,
            state=NOT_MEASURED,
            requires=guardrail.requires,
        )
    used = (treatment.value - control.value) / margin
    # The limit is uncertain as well, for it follows from the control.
    half_width = ONE_SIDED_Z * math.hypot(treatment.se, control_factor * control.se) / abs(margin)
    state = PASSED if used + half_width < 1 else FAILED if used - half_width > 1 else INCONCLUSIVE
    return GuardrailResult(
        name=guardrail.name,
        control=control.value,
        treatment=treatment.value,
        limit=limit,
        margin_used=used,
        low=used - half_width,
        high=used + half_width,
        state=state,
    )


def parse_margin(text: str) -> tuple[str, float]:
    """Parse `latency=0.1`. Raises ValueError for an unknown key or a margin of the wrong sign."""
    key, _, value = text.partition("=")
    by_key = {guardrail.key: guardrail for guardrail in GUARDRAILS}
    try:
        margin = float(value)
    except ValueError:
        margin = math.nan
    if key not in by_key or not margin * by_key[key].margin > 0 or math.isinf(margin):
        raise ValueError(f"{text}: expected one of these, with a value of the same sign: {DEFAULT_MARGINS}")
    return key, margin


def _estimate_metric(guardrail: Guardrail, log: SessionLog, sums: UserSums, users: NDArray) -> PointEstimate:
    if guardrail.metric is None:
        timed = users[log.slate_user_row] & ~np.isnan(log.latency_ms)
        if not timed.any():
            return MISSING_ESTIMATE
        return estimate_quantile(log.latency_ms[timed], log.slate_user_row[timed], 0.99)
    if guardrail.metric.numerator not in sums:
        return MISSING_ESTIMATE
    return estimate_arm(guardrail.metric, {name: column[users] for name, column in sums.items()})
