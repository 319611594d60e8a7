"""The conditions that a challenger must pass before it serves."""

from typing import Any, NamedTuple

import numpy as np

from evaluation.jagged import Array
from evaluation.metrics import Slope, paired_bootstrap
from operations.retraining.offline_eval import RunMetrics, population_stability_index


class Gate(NamedTuple):
    """One condition."""

    name: str
    passed: bool
    detail: str  # the figures and the limit, as text


def evaluate_gates(
    challenger: RunMetrics,
    champion: RunMetrics | None,
    popularity_ndcg: Array,
    manifest: dict[str, Any],
    limits: Any,
) -> list[Gate]:
    """Returns all gates, passed or not. Without a champion the challenger need only beat bestsellers.

    Args:
        popularity_ndcg: [m] NDCG@6 of bestsellers in the same window.
        manifest: manifest of the challenger's bundle.
        limits: `retrain.gates` of the config.
    """
    ndcg, bestseller_ndcg = float(challenger.ndcg.mean()), float(popularity_ndcg.mean())
    detail = f"NDCG@6 {ndcg:.4f}, bestsellers have {bestseller_ndcg:.4f}"
    gates = [Gate("popularity", ndcg > bestseller_ndcg, detail)]
    if champion is not None:
        gates.append(_calibration_slope_gate(champion.calibration_slope, limits.calibration_slope))
        gates += _quality_gates(challenger, champion, limits.quality)
    ratio, low, high = (
        challenger.predicted_over_observed,
        1 / (1 + limits.calibration),
        1 + limits.calibration,
    )
    detail = f"purchases predicted / observed {ratio:.2f}, {low:.2f} to {high:.2f} is allowed"
    gates.append(Gate("calibration", low <= ratio <= high, detail))
    recall, p99 = manifest["index"]["recall"], manifest["export"]["parity"]["p99_ms"]
    gates.append(Gate("recall", recall >= limits.recall, f"index {recall:.4f}, at least {limits.recall}"))
    gates.append(Gate("latency", p99 <= limits.p99_ms, f"p99 {p99:.1f} ms, at most {limits.p99_ms:g}"))
    if champion is not None:
        psi = population_stability_index(champion.purchase_probability, challenger.purchase_probability)
        detail = f"stability index of p(purchase) {psi:.2f}, at most {limits.drift:g}"
        gates.append(Gate("drift", psi <= limits.drift, detail))
    return gates


def _calibration_slope_gate(slope: Slope, limit: float) -> Gate:
    """Fails if outcomes significantly deviate from the champion's predictions.

    Such outcomes cannot be trusted, neither for the challenger's training nor for its evaluation.
    """
    high = slope.slope + 1.96 * slope.stderr
    detail = (
        f"outcomes follow the champion's predictions with slope {slope.slope:.2f} (to {high:.2f}), "
        f"at least {limit:g}"
    )
    return Gate("calibration slope", high >= limit, detail)


def _quality_gates(challenger: RunMetrics, champion: RunMetrics, margin: float) -> list[Gate]:
    """Gates of the slates, or of the predictions for logged impressions.

    If only impressions have an outcome, a comparison of slates would favour the champion, which chose the
    impressions. So both models are compared on the same shown items.
    """
    if challenger.impressions is not None and champion.impressions is not None:
        users = challenger.impressions.users
        log_loss, champion_log_loss = challenger.impressions.log_loss, champion.impressions.log_loss
        return [_non_inferiority("log loss", -log_loss, -champion_log_loss, users, margin)]
    users = challenger.users
    return [
        _non_inferiority("NDCG@6", challenger.ndcg, champion.ndcg, users, margin),
        _non_inferiority("revenue@6", challenger.revenue, champion.revenue, users, margin),
    ]


def _non_inferiority(name: str, challenger: Array, champion: Array, users: Array, margin: float) -> Gate:
    """Fails if the loss is significant (95 % interval, users resampled) or larger than the margin."""
    difference = paired_bootstrap(challenger, champion, users)
    loss = -difference.difference / max(abs(float(np.mean(champion))), 1e-12)
    detail = (
        f"{abs(float(np.mean(challenger))):.4f} against {abs(float(np.mean(champion))):.4f} "
        f"(gain {difference.difference:+.4f}, {difference.low:+.4f} to {difference.high:+.4f}); a loss of "
        f"{margin:.0%} is allowed if it is not certain"
    )
    return Gate(name, loss <= margin and difference.high >= 0, detail)


def gate_summary(gates: list[Gate]) -> str:
    """A sentence that says why a challenger is published or not."""
    failed = [gate for gate in gates if not gate.passed]
    if not failed:
        return f"all {len(gates)} gates passed"
    return "; ".join(f"{gate.name}: {gate.detail}" for gate in failed)
