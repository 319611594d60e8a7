"""Every metric against a reference written one checkout at a time, or against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score

from evaluation import metrics
from evaluation.jagged import to_offsets
from evaluation.metrics import Purchases, calibration_slope

ITEMS = 12
SLATE = st.lists(st.integers(0, ITEMS), max_size=6, unique=True).map(lambda s: s + [-1] * (6 - len(s)))
BOUGHT = st.dictionaries(st.integers(0, ITEMS), st.floats(0, 100, width=32), max_size=9)
CASES = st.lists(st.tuples(SLATE, BOUGHT), min_size=1, max_size=12)


def arrays(cases):
    slates = np.array([slate for slate, _ in cases])
    bought = [b for _, b in cases]
    items = np.array([i for b in bought for i in b], np.int64)
    value = np.array([v for b in bought for v in b.values()], np.float64)
    return slates, Purchases(to_offsets(np.array([len(b) for b in bought])), items, value)


def naive_ndcg(slate, bought, k):
    if not bought:
        return math.nan
    gain = sum(1 / math.log2(at + 2) for at, item in enumerate(slate[:k]) if item in bought)
    return gain / sum(1 / math.log2(at + 2) for at in range(min(k, len(bought))))


@given(CASES, st.integers(1, 6))
@settings(deadline=None, max_examples=80)
def test_slate_metrics_match_a_loop(cases, k):
    slates, purchases = arrays(cases)
    hits = [[item for item in slate[:k] if item in bought] for slate, bought in cases]
    expected = [naive_ndcg(slate, bought, k) for slate, bought in cases]
    np.testing.assert_allclose(metrics.ndcg_at(slates, purchases, k), expected, rtol=1e-12)
    np.testing.assert_array_equal(
        metrics.hit_at(slates, purchases, k), [float(bool(items)) for items in hits]
    )
    np.testing.assert_allclose(metrics.precision_at(slates, purchases, k), [len(items) / k for items in hits])
    spent = [sum(bought[item] for item in items) for items, (_, bought) in zip(hits, cases, strict=True)]
    np.testing.assert_allclose(metrics.revenue_at(slates, purchases, k), spent, rtol=1e-9)


@given(st.permutations(range(10)), st.sets(st.integers(0, 9), min_size=1))
@settings(deadline=None, max_examples=40)
def test_ndcg_matches_sklearn(order, bought):
    """scikit-learn ranks a score over the whole catalog; the slate is its first six."""
    score = np.zeros(10)
    score[list(order)] = np.arange(10, 0, -1)
    truth = np.isin(np.arange(10), list(bought)).astype(float)
    slates, purchases = arrays([(list(order[:6]), dict.fromkeys(bought, 1.0))])
    ours = metrics.ndcg_at(slates, purchases)
    np.testing.assert_allclose(ours, ndcg_score([truth], [score], k=6), rtol=1e-12)


def test_an_empty_slot_of_one_checkout_is_no_purchase_of_another():
    """-1 must not be read as the largest item of the row before."""
    slates, purchases = arrays([([0] + [-1] * 5, {ITEMS: 3.0}), ([-1] * 6, {1: 1.0})])
    assert metrics.revenue_at(slates, purchases).tolist() == [0.0, 0.0]


def test_malformed_slates_and_outcomes_are_refused():
    slates, purchases = arrays([([1, 2, 1, -1, -1, -1], {1: 1.0})])
    with pytest.raises(ValueError, match="shows an item twice"):
        metrics.ndcg_at(slates, purchases)
    with pytest.raises(ValueError, match="slates have the shape"):
        metrics.ndcg_at(slates[:, :3], purchases)
    repeated = Purchases(np.array([0, 2]), np.array([4, 4]), np.ones(2))
    with pytest.raises(ValueError, match="occurs twice"):
        metrics.hit_at(np.arange(6)[None], repeated)


@given(st.lists(st.tuples(st.lists(st.integers(0, 30), unique=True), BOUGHT), min_size=1, max_size=8),
       st.integers(1, 20))  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_recall_matches_a_loop(cases, k):
    _, purchases = arrays([([-1] * 6, bought) for _, bought in cases])
    offsets = to_offsets(np.array([len(c) for c, _ in cases]))
    item = np.array([i for c, _ in cases for i in c], np.int64)
    expected = [len(set(c[:k]) & set(b)) / len(b) if b else math.nan for c, b in cases]
    np.testing.assert_allclose(metrics.recall_at(offsets, item, purchases, k), expected)


SCORED = st.lists(st.tuples(st.booleans(), st.integers(0, 20).map(lambda x: x / 20)), min_size=2, max_size=60)


@given(SCORED)
@settings(deadline=None, max_examples=60)
def test_auc_and_log_loss_match_sklearn(pairs):
    label, score = (np.array(column) for column in zip(*pairs, strict=True))
    if label.all() or not label.any():
        assert math.isnan(metrics.auc(label, score))
        return
    assert metrics.auc(label, score) == pytest.approx(roc_auc_score(label, score))
    clipped = np.clip(score, 1e-7, 1 - 1e-7)
    assert metrics.log_loss(label, score) == pytest.approx(sk_log_loss(label, clipped))


@given(SCORED, st.integers(1, 20), st.randoms())
@settings(deadline=None, max_examples=60)
def test_ece_does_not_depend_on_the_order_and_keeps_ties_together(pairs, bins, random):
    label, score = (np.array(column) for column in zip(*pairs, strict=True))
    curve = metrics.calibration_curve(label, score, bins)
    assert curve.pairs.sum() == len(label)
    assert (np.diff(curve.predicted) > 0).all()
    assert (curve.predicted * curve.pairs).sum() == pytest.approx(score.sum())
    random.shuffle(pairs)
    again = metrics.ece(*(np.array(column) for column in zip(*pairs, strict=True)), bins)
    assert metrics.ece(label, score, bins) == pytest.approx(again)


@given(SCORED, st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_equal_width_ece_matches_a_loop(pairs, bins):
    total = 0.0
    for b in range(bins):
        inside = [(y, p) for y, p in pairs if min(int(p * bins), bins - 1) == b]
        total += abs(sum(p for _, p in inside) - sum(y for y, _ in inside)) / len(pairs)
    label, score = (np.array(column) for column in zip(*pairs, strict=True))
    assert metrics.ece(label, score, bins, equal_mass=False) == pytest.approx(total)


def test_equal_mass_bins_hold_equally_many():
    score = np.random.default_rng(0).random(1500) ** 4
    assert metrics.calibration_curve(score > 0.5, score, bins=15).pairs.tolist() == [100] * 15


def test_calibrated_probabilities_have_small_errors():
    rng = np.random.default_rng(0)
    p = rng.beta(1, 20, 200_000)
    label = rng.random(len(p)) < p
    quality = metrics.probability_quality(label, p)
    assert quality["ece"] < 0.002
    assert quality["predicted_over_observed"] == pytest.approx(1, abs=0.03)
    assert metrics.probability_quality(label, np.minimum(2 * p, 1))["ece"] > 0.03
    with pytest.raises(ValueError, match="inside"):
        metrics.ece(label, p + 1)


def test_bootstrap_resamples_users():
    rng = np.random.default_rng(0)
    # 50 users, 40 checkouts each, that share one effect: 50 independent values, not 2,000.
    effect = rng.normal(0.1, 1, 50)
    users = np.repeat(np.arange(50), 40)
    b = rng.random(2000)
    result = metrics.paired_bootstrap(b + effect[users], b, users, n_resamples=4000, seed=1)
    assert result.difference == pytest.approx(effect.mean())
    assert result.low < result.difference < result.high
    assert (result.high - result.low) / 2 == pytest.approx(1.96 * effect.std() / math.sqrt(50), rel=0.1)
    assert result == metrics.paired_bootstrap(b + effect[users], b, users, n_resamples=4000, seed=1)


def test_bootstrap_matches_a_loop_over_uneven_users():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 12, 80)
    a, b = 3 + rng.random(80), rng.random(80)  # far from 0, so that uneven users must be weighted right
    names = np.unique(users)
    means = []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(users == u) for u in rng.choice(names, len(names))])
        means.append((a - b)[rows].mean())
    result = metrics.paired_bootstrap(a, b, users.astype(str), n_resamples=3000)
    np.testing.assert_allclose(result[1:], np.quantile(means, [0.025, 0.975]), atol=0.015)
    with pytest.raises(ValueError, match="NaN"):
        metrics.paired_bootstrap(np.array([np.nan, 1]), np.ones(2), np.arange(2))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 2.0]))
def test_the_slope_does_not_depend_on_the_selection_of_cases(seed: int, slope: float) -> None:
    rng = np.random.default_rng(seed)
    logit = rng.normal(-2, 1.5, 20_000)
    outcome = rng.random(len(logit)) < 1 / (1 + np.exp(-(0.3 + slope * logit)))
    is_likely = logit > -1  # as slates that are filled by the prediction
    for cases in (np.ones(len(logit), bool), is_likely):
        fitted = calibration_slope(outcome[cases], 1 / (1 + np.exp(-logit[cases])))
        assert abs(fitted.slope - slope) < 5 * fitted.stderr < 0.5
    shuffled = calibration_slope(rng.permutation(outcome), 1 / (1 + np.exp(-logit)))
    assert abs(shuffled.slope) < 5 * shuffled.stderr < 0.2
    assert np.isnan(calibration_slope(np.ones(5, bool), np.full(5, 0.5)).slope)
    assert np.isnan(calibration_slope(np.arange(5) > 2, np.full(5, 0.5)).slope)


def test_intervals_over_users_cover_chance_as_often_as_they_claim():
    missed = {"auc": 0, "correlation": 0}
    users = np.repeat(np.arange(60), 8)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        # Labels and scores have a part that is the user's own: pairs of a user are dependent.
        score = rng.normal(size=480) + rng.normal(size=60)[users]
        level = rng.normal(size=480) + rng.normal(size=60)[users]
        auc = metrics.auc_interval(level > 1, score, users)
        correlation = metrics.rank_correlation(level, score, users)
        assert auc.value == pytest.approx(metrics.auc(level > 1, score))
        missed["auc"] += not auc.low <= 0.5 <= auc.high
        missed["correlation"] += not correlation.low <= 0 <= correlation.high
    assert all(3 <= count <= 22 for count in missed.values()), missed
    assert math.isnan(metrics.auc_interval(np.ones(5), np.arange(5), np.arange(5)).low)
    assert math.isnan(metrics.rank_correlation(np.ones(5), np.arange(5), np.arange(5)).value)
    x = np.random.default_rng(0).normal(size=50)
    assert metrics.rank_correlation(x, x**3, np.arange(50)).low == pytest.approx(1.0)
