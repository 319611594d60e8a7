"""Metrics of slates and of probabilities. Pure functions of numpy arrays.

Slates are [n, k] item rows, best first, -1 for an empty slot. Purchases are jagged (`Purchases`). Relevance
is binary: an item is relevant if it was bought inside the horizon. NDCG and recall of a checkout without a
purchase are NaN, so a mean that includes such a checkout by mistake is NaN too.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from evaluation.jagged import Array, find_sorted, segment_ids
from training.rank_statistics import auc, midranks


class Purchases(NamedTuple):
    """The purchases of n checkouts inside the horizon; the items of a checkout are distinct."""

    offsets: Array  # [n+1] int64
    item: Array  # [ΣO] int64
    value: Array  # [ΣO] float, spent on the item, in the shop's currency


class CalibrationCurve(NamedTuple):
    """Predicted and observed frequency by bin of the prediction."""

    predicted: Array  # [bins] mean prediction
    observed: Array  # [bins] share of positives
    pairs: Array  # [bins] int64, predictions in the bin


class PairedDifference(NamedTuple):
    """Mean of a - b with a bootstrap interval."""

    difference: float
    low: float
    high: float


def match_purchases(row: Array, item: Array, purchases: Purchases) -> tuple[Array, Array]:
    """Return whether each (row, item) pair was bought [m] bool, and the spend on it [m] float64.

    Item -1 was never bought. Raises ValueError when an item occurs twice among a checkout's purchases.
    """
    stride = max(int(item.max(initial=0)), int(purchases.item.max(initial=0))) + 1
    key = segment_ids(purchases.offsets) * stride + purchases.item
    order = np.argsort(key)
    key = key[order]
    if (np.diff(key) == 0).any():
        raise ValueError("an item occurs twice among the purchases of one checkout")
    # Without the guard, item -1 of a row would read as the largest item of the row before it.
    position = np.where(item >= 0, find_sorted(key, row * stride + item), -1)
    is_bought = position >= 0
    value = np.zeros(len(item))
    value[is_bought] = purchases.value[order[position[is_bought]]]
    return is_bought, value


def _match_slates(slates: Array, purchases: Purchases, k: int) -> tuple[Array, Array]:
    """Return whether the items of the first k slots were bought [n, k] bool, and their spend [n, k].

    Raises ValueError for a slate that repeats an item, because the item would count twice.
    """
    n = len(slates)
    if slates.ndim != 2 or slates.shape[1] < k or n != len(purchases.offsets) - 1:
        expected = f"[{len(purchases.offsets) - 1}, {k} or more]"
        raise ValueError(f"slates have the shape {list(slates.shape)}, expected {expected}")
    items = slates[:, :k]
    ordered = np.sort(items, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a slate shows an item twice")
    is_bought, value = match_purchases(np.repeat(np.arange(n), k), items.ravel(), purchases)
    return is_bought.reshape(n, k), value.reshape(n, k)


def ndcg_at(slates: Array, purchases: Purchases, k: int = 6) -> Array:
    """Return the binary NDCG [n] with the ideal cut at k (Järvelin and Kekäläinen 2002).

    The discount is 1 / log2(1 + rank). The value is NaN for a checkout without purchases.
    """
    is_bought, _ = _match_slates(slates, purchases, k)
    discount = ndcg_discount(k)
    ideal = np.concatenate([[np.nan], np.cumsum(discount)])  # by number of purchases
    return is_bought @ discount / ideal[np.minimum(np.diff(purchases.offsets), k)]


def ndcg_discount(k: int) -> Array:
    """Return the discount 1 / log2(1 + rank) of the first k ranks: [k]."""
    discount: Array = 1.0 / np.log2(np.arange(2, k + 2))
    return discount


def hit_at(slates: Array, purchases: Purchases, k: int = 6) -> Array:
    """Return 1 if at least one of the first k items was bought, else 0: [n]."""
    return _match_slates(slates, purchases, k)[0].any(1).astype(float)


def precision_at(slates: Array, purchases: Purchases, k: int = 6) -> Array:
    """Return the share [n] of the k slots whose item was bought. An empty slot counts as not bought."""
    return _match_slates(slates, purchases, k)[0].mean(1)


def revenue_at(slates: Array, purchases: Purchases, k: int = 6) -> Array:
    """Return the user's spend [n] on the first k items inside the horizon, in the shop's currency."""
    return _match_slates(slates, purchases, k)[1].sum(1)


def recall_at(offsets: Array, item: Array, purchases: Purchases, k: int) -> Array:
    """Return the share [n] of a checkout's purchases that are among its first k candidates.

    The value is NaN without purchases. The candidates are jagged (offsets [n+1], item [ΣC]), best first,
    distinct within a checkout.
    """
    row = segment_ids(offsets)
    in_first_k = np.arange(len(row)) - offsets[row] < k
    row = row[in_first_k]
    is_bought, _ = match_purchases(row, item[in_first_k], purchases)
    total = np.diff(purchases.offsets).astype(float)
    total[total == 0] = np.nan
    return np.bincount(row[is_bought], minlength=len(total)) / total


def calibration_curve(
    label: Array, probability: Array, bins: int = 15, equal_mass: bool = True
) -> CalibrationCurve:
    """Return mean prediction and observed frequency by bin, without empty bins.

    Equal-mass bins hold about the same number of pairs; equal predictions share a bin, so the order of the
    input has no effect. Equal-mass bins are the default because most purchase probabilities are near zero:
    nearly all pairs would fall into the first bin of equal width (Nixon et al. 2019, section 3).
    Raises ValueError for predictions outside [0, 1].
    """
    probability = np.asarray(probability, np.float64)
    if not len(probability) or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("calibration needs at least one prediction, all of them inside [0, 1]")
    share = (midranks(probability) - 0.5) / len(probability) if equal_mass else probability
    bin_ = np.minimum((share * bins).astype(np.int64), bins - 1)
    count = np.bincount(bin_, minlength=bins)
    is_used = count > 0
    predicted = np.bincount(bin_, probability, bins)[is_used] / count[is_used]
    observed = np.bincount(bin_, np.asarray(label, np.float64), bins)[is_used] / count[is_used]
    return CalibrationCurve(predicted, observed, count[is_used])


def ece(label: Array, probability: Array, bins: int = 15, equal_mass: bool = True) -> float:
    """Return the expected calibration error (Guo et al. 2017, section 2).

    It is the mean of |predicted - observed| over the bins, weighted by their size. The bins have equal mass,
    unless `equal_mass` is false (see `calibration_curve`).
    """
    curve = calibration_curve(label, probability, bins, equal_mass)
    return float((np.abs(curve.predicted - curve.observed) * curve.pairs).sum() / curve.pairs.sum())


def predicted_over_observed(label: Array, predicted: Array) -> float:
    """Return the sum of predictions / the sum of outcomes (probabilities or money); 1 is unbiased."""
    observed = float(np.asarray(label, np.float64).sum())
    return float(np.asarray(predicted, np.float64).sum()) / observed if observed else float("nan")


def log_loss(label: Array, probability: Array, floor: float = 1e-7) -> float:
    """Return the mean negative log likelihood in nats. Predictions are clipped to [floor, 1 - floor]."""
    p = np.clip(np.asarray(probability, np.float64), floor, 1 - floor)
    return float(-np.where(np.asarray(label, bool), np.log(p), np.log1p(-p)).mean())


class Slope(NamedTuple):
    """A slope and its standard error."""

    slope: float
    stderr: float


def calibration_slope(label: Array, probability: Array, floor: float = 1e-7) -> Slope:
    """Return the slope of the logistic regression of outcomes on predicted logits (Cox 1958).

    The slope is 1 for calibrated predictions and 0 for outcomes that are independent of the predictions.
    Unlike AUC, the slope does not depend on the choice of the shown cases if the prediction alone made the
    choice. The slope is NaN if all outcomes or all predictions are equal. The standard error assumes
    independent cases.
    """
    if not 0 < label.sum() < len(label) or np.ptp(probability) == 0:
        return Slope(float("nan"), float("nan"))
    clipped = np.clip(probability.astype(np.float64), floor, 1 - floor)
    x = np.stack([np.ones(len(clipped)), np.log(clipped / (1 - clipped))])  # [2, n]

    def loss_and_gradient(coefficients: Array) -> tuple[float, Array]:
        logit = coefficients @ x
        # Per positive case: per case, the gradient of rare outcomes is below the optimizer's tolerance.
        total = (np.logaddexp(0, logit) - label * logit).sum()
        return total / label.sum(), x @ (expit(logit) - label) / label.sum()

    coefficients = minimize(loss_and_gradient, [0.0, 1.0], jac=True, method="BFGS").x
    fitted = expit(coefficients @ x)
    covariance = np.linalg.inv((x * fitted * (1 - fitted)) @ x.T)
    return Slope(float(coefficients[1]), float(np.sqrt(covariance[1, 1])))


def probability_quality(label: Array, probability: Array) -> dict[str, float]:
    """Return AUC, ECE, predicted / observed and log loss of probabilities [m] for labels [m]."""
    return {
        "auc": auc(label, probability),
        "ece": ece(label, probability),
        "predicted_over_observed": predicted_over_observed(label, probability),
        "log_loss": log_loss(label, probability),
    }


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def auc_interval(label: Array, score: Array, users: Array) -> Interval:
    """Return AUC with an interval clustered by user (Obuchowski 1997, clustered DeLong).

    All arguments are [m]. The interval is clustered because pairs of one user are dependent. The AUC is NaN
    if all labels are equal. The limits are NaN if there is only one user.
    """
    is_positive = np.asarray(label, bool)
    n, n_positive = len(is_positive), int(is_positive.sum())
    if n_positive in (0, n):
        return Interval(*[float("nan")] * 3)
    ranks = midranks(score)
    # For a positive the share of negatives below it, for a negative that of positives above it.
    concordant = np.empty(n)
    n_negative = n - n_positive
    concordant[is_positive] = (ranks[is_positive] - midranks(score[is_positive])) / n_negative
    concordant[~is_positive] = 1 - (ranks[~is_positive] - midranks(score[~is_positive])) / n_positive
    value = float(concordant[is_positive].mean())
    influence = (concordant - value) / np.where(is_positive, n_positive, n_negative)
    margin = 1.96 * clustered_stderr(influence, users)
    return Interval(value, value - margin, value + margin)


def rank_correlation(label: Array, prediction: Array, users: Array) -> Interval:
    """Return Spearman's rank correlation of labels and predictions, with an interval over users.

    All arguments are [m]. The correlation is NaN if all labels or all predictions are equal.
    """
    x, y = (midranks(values) - (len(values) + 1) / 2 for values in (label, prediction))
    scale = math.sqrt((x @ x) * (y @ y))
    if scale == 0:
        return Interval(*[float("nan")] * 3)
    value = float(x @ y) / scale
    # The influence function of a correlation: the product less the share of both variances.
    influence = (x * y) / scale - value * (x * x / (x @ x) + y * y / (y @ y)) / 2
    margin = 1.96 * clustered_stderr(influence, users)
    return Interval(value, value - margin, value + margin)


def clustered_stderr(influence: Array, users: Array) -> float:
    """Return the standard error of a sum of influences [m].

    The influences of one user may depend on each other. The error is NaN if there is only one user. `users`
    is [m].
    """
    _, code = np.unique(users, return_inverse=True)
    sums = np.bincount(code, influence)
    n = len(sums)
    return float(np.sqrt((sums**2).sum() * n / (n - 1))) if n > 1 else float("nan")


def paired_bootstrap(
    a: Array, b: Array, users: Array, n_resamples: int = 2000, seed: int = 0
) -> PairedDifference:
    """Return the mean of a - b over the same checkouts, with a 95 % percentile interval.

    `a`, `b` and `users` are [m]. The bootstrap resamples users, because checkouts of one user are dependent.
    An interval that ignores the dependence is too narrow (Efron and Tibshirani 1993, chapter 8). Raises
    ValueError for NaN, because each checkout needs a value of both systems.
    """
    delta = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if not len(delta) or np.isnan(delta).any() or len(delta) != len(users):
        raise ValueError("a, b and users need equal, positive lengths and no NaN")
    _, code = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(code, delta), np.bincount(code).astype(float)
    rng = np.random.default_rng(seed)
    step = max(1, 2_000_000 // len(sums))  # bounds the memory of the sampled indices
    means = []
    for start in range(0, n_resamples, step):
        sample = rng.integers(0, len(sums), (min(step, n_resamples - start), len(sums)))
        means.append(sums[sample].sum(1) / counts[sample].sum(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return PairedDifference(float(delta.mean()), float(low), float(high))
