"""What a challenger has to pass before it may serve, and the sentence that says whether it did."""

from typing import Any, NamedTuple

import numpy as np

from evaluation.jagged import Array
from evaluation.metrics import Slope, paired_bootstrap
from operations.retraining.offline_eval import RunMetrics, population_stability_index


class Gate(NamedTuple):
    """One condition."""

    name: str
    passed: bool
    detail: str  # in words, with the limit


def evaluate_gates(
    challenger: RunMetrics,
    champion: RunMetrics | None,
    popularity_ndcg: Array,
    manifest: dict[str, Any],
    limits: Any,
) -> list[Gate]:
    """All conditions, passed or not. Without a champion, bestsellers are what the challenger must beat.

    Args:
        popular: [m] NDCG@6 of bestsellers in the same window.
        manifest: of the challenger's bundle. limits: `retrain.gates` of the config.
    """
    mine, theirs = float(challenger.ndcg.mean()), float(popularity_ndcg.mean())
    found = [Gate("popularity", mine > theirs, f"NDCG@6 {mine:.4f}, bestsellers have {theirs:.4f}")]
    if champion is not None:
        found.append(_calibration_slope(champion.calibration_slope, limits.log))
        found += _quality_gates(challenger, champion, limits.quality)
    low, high = 1 / (1 + limits.calibration), 1 + limits.calibration
    told = f"purchases predicted / observed {challenger.predicted_over_observed:.2f}, {low:.2f} to {high:.2f} is allowed"
    found.append(Gate("calibration", low <= challenger.predicted_over_observed <= high, told))
    recall, p99 = manifest["index"]["recall"], manifest["export"]["parity"]["p99_ms"]
    found.append(Gate("recall", recall >= limits.recall, f"index {recall:.4f}, at least {limits.recall}"))
    found.append(Gate("latency", p99 <= limits.p99_ms, f"p99 {p99:.1f} ms, at most {limits.p99_ms:g}"))
    if champion is not None:
        moved = population_stability_index(champion.purchase_probability, challenger.purchase_probability)
        told = f"stability index of p(purchase) {moved:.2f}, at most {limits.drift:g}"
        found.append(Gate("drift", moved <= limits.drift, told))
    return found


def _calibration_slope(found: Slope, limit: float) -> Gate:
    """Fails where outcomes certainly do not follow what the champion says: then neither what a challenger
    has learned from them nor how it was judged is to be trusted."""
    high = found.slope + 1.96 * found.stderr
    told = f"outcomes follow the champion's predictions with slope {found.slope:.2f} (to {high:.2f}), "
    return Gate("log", high >= limit, told + f"at least {limit:g}")


def _quality_gates(mine: RunMetrics, other: RunMetrics, margin: float) -> list[Gate]:
    """Gates of the slates, where every outcome is known. Where only what was shown has one, slates of what
    the champion itself had shown would look best: there a gate of what the two say of the same items."""
    if mine.impressions is not None and other.impressions is not None:
        return [
            _non_inferiority(
                "log loss",
                -mine.impressions.log_loss,
                -other.impressions.log_loss,
                mine.impressions.users,
                margin,
            )
        ]
    return [
        _non_inferiority("NDCG@6", mine.ndcg, other.ndcg, mine.users, margin),
        _non_inferiority("revenue@6", mine.revenue, other.revenue, mine.users, margin),
    ]


def _non_inferiority(name: str, mine: Array, other: Array, users: Array, margin: float) -> Gate:
    """Fails where the loss is certain (95 % interval, users resampled), or larger than the margin."""
    difference = paired_bootstrap(mine, other, users)
    lost = -difference.difference / max(abs(float(np.mean(other))), 1e-12)
    told = (
        f"{abs(float(np.mean(mine))):.4f} against {abs(float(np.mean(other))):.4f} "
        f"(gain {difference.difference:+.4f}, {difference.low:+.4f} to {difference.high:+.4f}); a loss of "
        f"{margin:.0%} is allowed if it is not certain"
    )
    return Gate(name, lost <= margin and difference.high >= 0, told)


def gate_summary(found: list[Gate]) -> str:
    """Why a challenger is published or kept back, in one sentence."""
    failed = [gate for gate in found if not gate.passed]
    if not failed:
        return f"all {len(found)} gates passed"
    return "; ".join(f"{gate.name}: {gate.detail}" for gate in failed)
