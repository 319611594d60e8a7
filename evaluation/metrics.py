"""The numbers that judge a slate or a probability. Pure functions of numpy arrays.

Slates are [n, k] item rows, best first, -1 for an empty slot. What was bought is jagged (`Purchases`).
Relevance is binary: the item was bought inside the horizon. A checkout without any purchase has no
ideal slate: its NDCG and recall are NaN, so that forgetting to leave it out shows.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from evaluation.jagged import Array, find_sorted, segment_ids


class Purchases(NamedTuple):
    """What n checkouts led to inside the horizon; items distinct within a checkout."""

    offsets: Array  # [n+1] int64
    item: Array  # [ΣO] int64
    value: Array  # [ΣO] float, spent on the item, in the shop's currency


class CalibrationCurve(NamedTuple):
    """Predicted against observed frequency, by bin of the prediction."""

    predicted: Array  # [bins] mean prediction
    observed: Array  # [bins] share of positives
    pairs: Array  # [bins] int64, predictions in the bin


class PairedDifference(NamedTuple):
    """Mean of a - b with a bootstrap interval."""

    difference: float
    low: float
    high: float


def match_purchases(row: Array, item: Array, purchases: Purchases) -> tuple[Array, Array]:
    """Whether each (row, item) pair [m] was bought, and what was spent on it: ([m] bool, [m] float64).

    Item -1 was never bought. Raises ValueError when an item occurs twice among a checkout's purchases.
    """
    stride = max(int(item.max(initial=0)), int(purchases.item.max(initial=0))) + 1
    key = segment_ids(purchases.offsets) * stride + purchases.item
    order = np.argsort(key)
    key = key[order]
    if (np.diff(key) == 0).any():
        raise ValueError("an item occurs twice among the purchases of one checkout")
    # Without the guard, item -1 of a row would read as the largest item of the row before it.
    at = np.where(item >= 0, find_sorted(key, row * stride + item), -1)
    bought = at >= 0
    value = np.zeros(len(item))
    value[bought] = purchases.value[order[at[bought]]]
    return bought, value


def _match_slates(slates: Array, purchases: Purchases, k: int) -> tuple[Array, Array]:
    """([n, k] bool bought, [n, k] spent) of the first k slots. A repeated item would count twice: refused."""
    n = len(slates)
    if slates.ndim != 2 or slates.shape[1] < k or n != len(purchases.offsets) - 1:
        raise ValueError(f"slates {slates.shape} do not fit {len(purchases.offsets) - 1} checkouts at {k}")
    shown = slates[:, :k]
    ordered = np.sort(shown, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a slate shows an item twice")
    bought, value = match_purchases(np.repeat(np.arange(n), k), shown.ravel(), purchases)
    return bought.reshape(n, k), value.reshape(n, k)


def ndcg_at(slates: Array, purchases: Purchases, k: int = 6) -> Array:
    """Binary NDCG with the ideal cut at k (Järvelin and Kekäläinen 2002, discount 1 / log2(1 + rank)): [n].

    NaN for a checkout without purchases.
    """
    bought, _ = _match_slates(slates, purchases, k)
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[np.nan], np.cumsum(discount)])
    return bought @ discount / best[np.minimum(np.diff(purchases.offsets), k)]


def hit_at(slates: Array, purchases: Purchases, k: int = 6) -> Array:
    """1 where at least one of the first k was bought, else 0: [n]."""
    return _match_slates(slates, purchases, k)[0].any(1).astype(float)


def precision_at(slates: Array, purchases: Purchases, k: int = 6) -> Array:
    """Share of the k slots that was bought; an empty slot counts as a miss: [n]."""
    return _match_slates(slates, purchases, k)[0].mean(1)


def revenue_at(slates: Array, purchases: Purchases, k: int = 6) -> Array:
    """What the user spent inside the horizon on the first k, in the shop's currency: [n]."""
    return _match_slates(slates, purchases, k)[1].sum(1)


def recall_at(offsets: Array, item: Array, purchases: Purchases, k: int) -> Array:
    """Share of a checkout's purchases among the first k of its candidates: [n], NaN without purchases.

    The candidates are jagged (offsets [n+1], item [ΣC]), best first, distinct within a checkout.
    """
    row = segment_ids(offsets)
    first = np.arange(len(row)) - offsets[row] < k
    row = row[first]
    bought, _ = match_purchases(row, item[first], purchases)
    total = np.diff(purchases.offsets).astype(float)
    total[total == 0] = np.nan
    return np.bincount(row[bought], minlength=len(total)) / total


def auc(label: Array, score: Array) -> float:
    """Area under the ROC curve, ties at half (Mann-Whitney); label, score [m]. NaN with one class."""
    label = np.asarray(label, bool)
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = _midranks(score)
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _midranks(values: Array) -> Array:
    """Ranks from 1, equal values share the mean of theirs: [m] float64."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def calibration_curve(
    label: Array, probability: Array, bins: int = 15, equal_mass: bool = True
) -> CalibrationCurve:
    """Mean prediction and observed frequency by bin; empty bins are left out.

    Equal-mass bins hold about as many pairs each (equal predictions stay together, so the result does not
    depend on the order of the input). They are the default because purchase probabilities crowd near zero,
    where equal-width bins would put nearly everything into the first one (Nixon et al. 2019, section 3).
    Raises ValueError for predictions outside [0, 1].
    """
    probability = np.asarray(probability, np.float64)
    if not len(probability) or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("calibration needs at least one prediction, all of them inside [0, 1]")
    share = (_midranks(probability) - 0.5) / len(probability) if equal_mass else probability
    bin_ = np.minimum((share * bins).astype(np.int64), bins - 1)
    count = np.bincount(bin_, minlength=bins)
    used = count > 0
    predicted = np.bincount(bin_, probability, bins)[used] / count[used]
    observed = np.bincount(bin_, np.asarray(label, np.float64), bins)[used] / count[used]
    return CalibrationCurve(predicted, observed, count[used])


def ece(label: Array, probability: Array, bins: int = 15, equal_mass: bool = True) -> float:
    """Expected calibration error: mean |predicted - observed| over the bins, weighted by their size.

    Guo et al. 2017, section 2, with equal-mass bins unless `equal_mass` is false (see `calibration`).
    """
    curve = calibration_curve(label, probability, bins, equal_mass)
    return float((np.abs(curve.predicted - curve.observed) * curve.pairs).sum() / curve.pairs.sum())


def predicted_over_observed(label: Array, predicted: Array) -> float:
    """Sum of the predictions over the sum of what happened (probabilities or money); 1 is unbiased."""
    observed = float(np.asarray(label, np.float64).sum())
    return float(np.asarray(predicted, np.float64).sum()) / observed if observed else float("nan")


def log_loss(label: Array, probability: Array, floor: float = 1e-7) -> float:
    """Mean negative log likelihood in nats; predictions are kept `floor` away from 0 and 1."""
    p = np.clip(np.asarray(probability, np.float64), floor, 1 - floor)
    return float(-np.where(np.asarray(label, bool), np.log(p), np.log1p(-p)).mean())


class Slope(NamedTuple):
    """A slope and its standard error."""

    slope: float
    stderr: float


def calibration_slope(label: Array, probability: Array, floor: float = 1e-7) -> Slope:
    """Slope of the outcome's logit by the predicted one (Cox 1958), by logistic regression.

    1 where outcomes follow predictions, 0 where they have nothing to do with each other. Unlike AUC it does
    not depend on which cases there are, so long as predictions are all that they were chosen by. NaN where
    all outcomes or all predictions are the same. The error is that of independent cases.
    """
    if not 0 < label.sum() < len(label) or np.ptp(probability) == 0:
        return Slope(float("nan"), float("nan"))
    chance = np.clip(probability.astype(np.float64), floor, 1 - floor)
    x = np.stack([np.ones(len(chance)), np.log(chance / (1 - chance))])  # [2, n]

    def loss(line: Array) -> tuple[float, Array]:
        fitted = line @ x
        # By positive case: by case, those of rare outcomes would be level from the start.
        total = (np.logaddexp(0, fitted) - label * fitted).sum()
        return total / label.sum(), x @ (expit(fitted) - label) / label.sum()

    line = minimize(loss, [0.0, 1.0], jac=True, method="BFGS").x
    fitted = expit(line @ x)
    covariance = np.linalg.inv((x * fitted * (1 - fitted)) @ x.T)
    return Slope(float(line[1]), float(np.sqrt(covariance[1, 1])))


def head_quality(label: Array, probability: Array) -> dict[str, float]:
    """AUC, ECE, predicted/observed and log loss of one head over a candidate set; label, probability [m]."""
    return {
        "auc": auc(label, probability),
        "ece": ece(label, probability),
        "predicted_over_observed": predicted_over_observed(label, probability),
        "log_loss": log_loss(label, probability),
    }


def paired_bootstrap(
    a: Array, b: Array, users: Array, n_resamples: int = 2000, seed: int = 0
) -> PairedDifference:
    """Mean of a - b over the same checkouts with a 95 % percentile interval; a, b, users are [m].

    Users are resampled, not checkouts: the checkouts of one user are far from independent, and an interval
    that forgets it is too narrow (Efron and Tibshirani 1993, chapter 8). `n` is the number of resamples.
    Raises ValueError on NaN: a checkout that counts for one system and not the other breaks the pairing.
    """
    delta = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if not len(delta) or np.isnan(delta).any() or len(delta) != len(users):
        raise ValueError("a, b and users need equal, positive lengths and no NaN")
    _, code = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(code, delta), np.bincount(code).astype(float)
    rng = np.random.default_rng(seed)
    step = max(1, 2_000_000 // len(sums))  # bounds the memory of the drawn indices
    means = []
    for start in range(0, n_resamples, step):
        drawn = rng.integers(0, len(sums), (min(step, n_resamples - start), len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return PairedDifference(float(delta.mean()), float(low), float(high))
