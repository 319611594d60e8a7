"""Gradient-boosted trees on the ranker's own features: the baseline that a neural ranker has to beat.

It sees the same candidates and the same feature matrix as the ranker, so the comparison is about the learner
and not about what it was told. Two models, as in the ranker's heads:

    purchase   binary log loss over all pairs                     p(purchase)
    spend      gamma deviance over the bought pairs, log link     E[spend | purchase]

Where pairs are too many for memory, negatives are sampled and weighted, as for the ranker: p(purchase) stays
calibrated.
"""

from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np

from evaluation.jagged import Array, RankedLists

# Moderately deep trees with row and column sampling and large leaves: pairs number millions, of which a few
# in a hundred are bought, and one checkout's pairs resemble each other. Rounds are left to early stopping.
PARAMETERS: dict[str, Any] = {
    "learning_rate": 0.1,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "force_row_wise": True,
    "num_threads": 2,
    "verbosity": -1,
}
# The bought pairs are far fewer, and what people spend is noisier.
SPEND_PARAMETERS: dict[str, Any] = PARAMETERS | {"num_leaves": 31, "min_data_in_leaf": 50}


class LabeledPairs(NamedTuple):
    """The candidates of n checkouts with their features and what became of them, P pairs."""

    offsets: Array  # [n+1] int64
    item: Array  # [P] int64, item rows
    features: Array  # [P, F] float32, NaN for missing
    purchase: Array  # [P] bool
    value: Array  # [P] float, spent on the item inside the horizon
    weight: Array  # [P] float32, for how many pairs each stands


class GbdtModels(NamedTuple):
    purchase: lgb.Booster
    spend: lgb.Booster


def fit(
    train: LabeledPairs,
    validation: LabeledPairs,
    seed: int = 0,
    feature_names: list[str] | None = None,
    max_rounds: int = 2000,
    patience: int = 30,
    eval_period: int = 50,
) -> GbdtModels:
    """Fit both models, stopping when validation has not improved for `patience` rounds.

    `names` [F] are the feature names; every `progress` rounds the validation loss is printed (0 for never).
    Raises ValueError where there is nothing to learn from: no purchase with a value in either set.
    """
    for label, pairs in (("training", train), ("validation", validation)):
        if not (np.asarray(pairs.purchase, bool) & (pairs.value > 0)).any():
            raise ValueError(f"the {label} pairs hold no purchase with a value")
    options: dict[str, Any] = {
        "seed": seed,
        "names": feature_names,
        "rounds": max_rounds,
        "patience": patience,
        "progress": eval_period,
    }
    sets = [(one.features, np.asarray(one.purchase, np.float32), one.weight) for one in (train, validation)]
    purchase = _train_booster(
        PARAMETERS | {"objective": "binary", "metric": "binary_logloss"}, sets, **options
    )
    # A gift (value 0) has no gamma likelihood, and is no spend to learn from.
    paid = [np.asarray(pairs.purchase, bool) & (pairs.value > 0) for pairs in (train, validation)]
    sets = [
        (pairs.features[mask], pairs.value[mask], pairs.weight[mask])
        for pairs, mask in zip((train, validation), paid, strict=True)
    ]
    spend = _train_booster(SPEND_PARAMETERS | {"objective": "gamma", "metric": "gamma"}, sets, **options)
    return GbdtModels(purchase, spend)


def _train_booster(
    parameters: dict[str, Any],
    sets: list[tuple[Array, Array, Array]],
    seed: int,
    names: list[str] | None,
    rounds: int,
    patience: int,
    progress: int,
) -> lgb.Booster:
    """One booster on (features, target, weight) of training and validation."""
    (features, target, weight), (held_features, held_target, held_weight) = sets
    train = lgb.Dataset(features, target, weight=weight, feature_name=names or "auto", free_raw_data=True)
    held = train.create_valid(held_features, held_target, weight=held_weight)
    callbacks: list[Any] = [lgb.early_stopping(patience, verbose=progress > 0)]
    if progress:
        print(f"{parameters['objective']}: {len(target):,} pairs, {features.shape[1]} features", flush=True)
        callbacks.append(lgb.log_evaluation(progress))
    return lgb.train(
        parameters | {"seed": seed},
        train,
        num_boost_round=rounds,
        valid_sets=[held],
        valid_names=["validation"],
        callbacks=callbacks,
    )


def predict(model: GbdtModels, features: Array) -> tuple[Array, Array]:
    """features [P, F] -> (p(purchase) [P], E[spend | purchase] [P] in the shop's currency), best rounds."""
    return np.asarray(model.purchase.predict(features)), np.asarray(model.spend.predict(features))


def rankings_by_order(pairs: LabeledPairs, probability: Array, spend: Array) -> dict[str, RankedLists]:
    """The candidates in both orders: `purchase` by p(purchase) [P], `value` by p * E[spend | purchase]."""
    return {
        "purchase": RankedLists(pairs.offsets, pairs.item, probability),
        "value": RankedLists(pairs.offsets, pairs.item, probability * spend),
    }
