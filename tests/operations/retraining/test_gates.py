"""Which challengers pass, and the reasons why others do not."""

from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.metrics import Slope
from operations.retraining.gates import evaluate_gates, gate_summary
from operations.retraining.offline_eval import ImpressionLoss, RunMetrics, population_stability_index

LIMITS = SimpleNamespace(
    quality=0.01, calibration_slope=0.7, calibration=0.25, recall=0.95, p99_ms=50.0, drift=0.5
)
MANIFEST = {"index": {"recall": 0.98}, "export": {"parity": {"p99_ms": 9.0}}}
USERS = np.repeat(np.arange(500), 4)


def make_metrics(
    shift: float = 0.0,
    ratio: float = 1.0,
    added_probability: float = 0.0,
    seed: int = 0,
    slope: float = 1.0,
    loss: float | None = None,
) -> RunMetrics:
    """A run whose mean NDCG and revenue are `shift` and 10 · `shift` above .5 and 5, with noise."""
    checkout_noise = 0.3 * np.random.default_rng(1).standard_normal(len(USERS))  # the same for all runs
    run_noise = 0.05 * np.random.default_rng(seed).standard_normal(len(USERS))
    ndcg = 0.5 + shift + checkout_noise + run_noise
    impressions = None
    if loss is not None:
        impressions = ImpressionLoss(USERS, loss + 0.1 * checkout_noise + 0.1 * run_noise)
    p = np.random.default_rng(2).beta(1, 20, 5_000)
    return RunMetrics(
        run="run",
        users=USERS,
        ndcg=ndcg,
        revenue=10 * ndcg,
        purchase_probability=np.clip(p + added_probability, 0, 1),
        predicted_over_observed=ratio,
        calibration_slope=Slope(slope, 0.02),
        impressions=impressions,
    )


def failed_gates(challenger: RunMetrics, champion: RunMetrics | None, manifest: dict = MANIFEST) -> set[str]:
    gates = evaluate_gates(challenger, champion, np.full(len(USERS), 0.2), manifest, LIMITS)
    names = {gate.name for gate in gates if not gate.passed}
    assert all(name in gate_summary(gates) for name in names)
    return names


def test_an_equal_and_a_better_one_pass() -> None:
    assert failed_gates(make_metrics(seed=3), make_metrics()) == set()
    assert failed_gates(make_metrics(0.05, seed=3), make_metrics()) == set()
    assert failed_gates(make_metrics(), None) == set()


def test_a_loss_fails_if_it_is_certain_or_too_large() -> None:
    assert failed_gates(make_metrics(-0.02, seed=3), make_metrics()) == {"NDCG@6", "revenue@6"}  # 4 %
    assert failed_gates(make_metrics(-0.004), make_metrics()) == {
        "NDCG@6",
        "revenue@6",
    }  # .8 %, and of every checkout


@pytest.mark.parametrize(
    ("challenger", "manifest", "name"),
    [
        (make_metrics(ratio=1.3), MANIFEST, "calibration"),
        (make_metrics(ratio=0.7), MANIFEST, "calibration"),
        (make_metrics(ratio=float("nan")), MANIFEST, "calibration"),
        (make_metrics(added_probability=0.1), MANIFEST, "drift"),
        (make_metrics(), MANIFEST | {"index": {"recall": 0.94}}, "recall"),
        (make_metrics(), MANIFEST | {"export": {"parity": {"p99_ms": 51.0}}}, "latency"),
    ],
)
def test_each_gate_stops_what_it_is_for(challenger: RunMetrics, manifest: dict, name: str) -> None:
    assert failed_gates(challenger, make_metrics(), manifest) == {name}


def test_a_log_that_does_not_follow_the_champion_stops_every_challenger() -> None:
    assert failed_gates(make_metrics(seed=3), make_metrics(slope=0.8)) == set()
    assert failed_gates(make_metrics(0.1, seed=3), make_metrics(slope=0.5)) == {"calibration slope"}
    assert failed_gates(make_metrics(0.1, seed=3), make_metrics(slope=float("nan"))) == {"calibration slope"}


def test_logged_impressions_decide_over_slates() -> None:
    """Slates of the champion's own items look better than a challenger's, whatever its quality."""
    assert failed_gates(make_metrics(-0.1, loss=0.2, seed=3), make_metrics(loss=0.2)) == set()
    assert failed_gates(make_metrics(0.1, loss=0.21, seed=3), make_metrics(loss=0.2)) == {"log loss"}


def test_worse_than_bestsellers_never_serves() -> None:
    assert failed_gates(make_metrics(-0.4), None) == {"popularity"}


def test_stability_of_equal_and_of_shifted_samples() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20_000), rng.normal(size=20_000)
    assert population_stability_index(a, b) < 0.01
    # Of N(0, 1) and N(1, 1) it is the symmetric divergence, 1; deciles see a little less.
    assert 0.8 < population_stability_index(a, b + 1) < 1.05
