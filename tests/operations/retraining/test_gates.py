"""Which challengers pass, and what is said of those that do not."""

from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.metrics import Slope
from operations.retraining.gates import evaluate_gates, gate_summary
from operations.retraining.offline_eval import ImpressionLoss, RunMetrics, population_stability_index

LIMITS = SimpleNamespace(quality=0.01, log=0.7, calibration=0.25, recall=0.95, p99_ms=50.0, drift=0.5)
MANIFEST = {"index": {"recall": 0.98}, "export": {"parity": {"p99_ms": 9.0}}}
USERS = np.repeat(np.arange(500), 4)


def judged(
    shift: float = 0.0,
    ratio: float = 1.0,
    chance: float = 0.0,
    seed: int = 0,
    slope: float = 1.0,
    loss: float | None = None,
) -> RunMetrics:
    """A run whose NDCG and revenue are `shift` away from .5 and 5, with noise of its own."""
    noise = 0.3 * np.random.default_rng(1).standard_normal(len(USERS))  # of the checkouts, the same for all
    own = 0.05 * np.random.default_rng(seed).standard_normal(len(USERS))
    ndcg = 0.5 + shift + noise + own
    shown = None if loss is None else ImpressionLoss(USERS, loss + 0.1 * noise + 0.1 * own)
    p = np.random.default_rng(2).beta(1, 20, 5_000)
    return RunMetrics(
        "run", USERS, ndcg, 10 * ndcg, np.clip(p + chance, 0, 1), ratio, Slope(slope, 0.02), shown
    )


def failed(challenger: RunMetrics, champion: RunMetrics | None, manifest: dict = MANIFEST) -> set[str]:
    found = evaluate_gates(challenger, champion, np.full(len(USERS), 0.2), manifest, LIMITS)
    names = {gate.name for gate in found if not gate.passed}
    assert all(name in gate_summary(found) for name in names)
    return names


def test_an_equal_and_a_better_one_pass() -> None:
    assert failed(judged(seed=3), judged()) == set()
    assert failed(judged(0.05, seed=3), judged()) == set()
    assert failed(judged(), None) == set()


def test_a_loss_fails_if_it_is_certain_or_too_large() -> None:
    assert failed(judged(-0.02, seed=3), judged()) == {"NDCG@6", "revenue@6"}  # 4 %
    assert failed(judged(-0.004), judged()) == {"NDCG@6", "revenue@6"}  # .8 %, and of every checkout


@pytest.mark.parametrize(
    ("challenger", "manifest", "name"),
    [
        (judged(ratio=1.3), MANIFEST, "calibration"),
        (judged(ratio=0.7), MANIFEST, "calibration"),
        (judged(ratio=float("nan")), MANIFEST, "calibration"),
        (judged(chance=0.1), MANIFEST, "drift"),
        (judged(), MANIFEST | {"index": {"recall": 0.94}}, "recall"),
        (judged(), MANIFEST | {"export": {"parity": {"p99_ms": 51.0}}}, "latency"),
    ],
)
def test_each_gate_stops_what_it_is_for(challenger: RunMetrics, manifest: dict, name: str) -> None:
    assert failed(challenger, judged(), manifest) == {name}


def test_a_log_that_does_not_follow_the_champion_is_not_learned_from() -> None:
    assert failed(judged(seed=3), judged(slope=0.8)) == set()
    assert failed(judged(0.1, seed=3), judged(slope=0.5)) == {"log"}
    assert failed(judged(0.1, seed=3), judged(slope=float("nan"))) == {"log"}


def test_where_impressions_are_logged_what_was_shown_decides() -> None:
    """Slates of the champion's own items look better than a challenger's, and say nothing."""
    assert failed(judged(-0.1, loss=0.2, seed=3), judged(loss=0.2)) == set()
    assert failed(judged(0.1, loss=0.21, seed=3), judged(loss=0.2)) == {"log loss"}


def test_worse_than_bestsellers_never_serves() -> None:
    assert failed(judged(-0.4), None) == {"popularity"}


def test_stability_of_equal_and_of_moved_samples() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20_000), rng.normal(size=20_000)
    assert population_stability_index(a, b) < 0.01
    # Of N(0, 1) and N(1, 1) it is the symmetric divergence, 1; deciles see a little less.
    assert 0.8 < population_stability_index(a, b + 1) < 1.05
