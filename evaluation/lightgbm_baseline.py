"""Gradient-boosted trees on the ranker's features: the baseline that a neural ranker has to beat.

LightGBM gets the candidates and the feature matrix of the ranker, so only the learners are compared. Two
LightGBM models correspond to the tasks purchase and value of the default ranker:

    purchase   binary log loss over all pairs                     p(purchase)
    spend      gamma deviance over the bought pairs, log link     E[spend | purchase]

If the pairs do not fit into memory, negatives are sampled and weighted, as for the ranker, so p(purchase)
stays calibrated.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from evaluation.jagged import Array, RankedLists
from evaluation.labeled_pairs import LabeledPairs

if TYPE_CHECKING:  # it takes two seconds to import, and few evaluations need it
    import lightgbm as lgb

# Moderately deep trees with row and column sampling and large leaves: of millions of pairs a few percent are
# bought, and the pairs of one checkout resemble each other. Early stopping decides the number of rounds.
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
# Bought pairs are far fewer, and spend is noisier.
SPEND_PARAMETERS: dict[str, Any] = PARAMETERS | {"num_leaves": 31, "min_data_in_leaf": 50}


class GbdtModels(NamedTuple):
    purchase: "lgb.Booster"
    spend: "lgb.Booster"


class TrainingSet(NamedTuple):
    """Training or validation rows of one booster."""

    features: Array  # [m, F]
    target: Array  # [m]
    weight: Array  # [m]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Settings of the boosters' training.

    Args:
        seed: seed of both boosters.
        feature_names: [F]; None names the features by their numbers.
        max_rounds: the largest number of trees of a booster.
        patience: training stops after this number of rounds without improvement on validation.
        eval_period: rounds between printed validation losses; 0 prints none.
    """

    seed: int = 0
    feature_names: list[str] | None = None
    max_rounds: int = 2000
    patience: int = 30
    eval_period: int = 50


DEFAULT_OPTIONS = FitOptions()


def fit(train: LabeledPairs, validation: LabeledPairs, options: FitOptions = DEFAULT_OPTIONS) -> GbdtModels:
    """Fit both models with early stopping on validation.

    Raises ValueError if `train` or `validation` has no purchase with a value.
    """
    # A gift (value 0) has no gamma likelihood.
    has_spend = [np.asarray(pairs.purchase, bool) & (pairs.value > 0) for pairs in (train, validation)]
    for label, mask in zip(("training", "validation"), has_spend, strict=True):
        if not mask.any():
            raise ValueError(f"the {label} pairs hold no purchase with a value above 0")
    purchase_train, purchase_validation = (
        TrainingSet(pairs.features, np.asarray(pairs.purchase, np.float32), pairs.weight)
        for pairs in (train, validation)
    )
    purchase_parameters = PARAMETERS | {"objective": "binary", "metric": "binary_logloss"}
    purchase = _train_booster(purchase_parameters, purchase_train, purchase_validation, options)
    spend_train, spend_validation = (
        TrainingSet(pairs.features[mask], pairs.value[mask], pairs.weight[mask])
        for pairs, mask in zip((train, validation), has_spend, strict=True)
    )
    spend_parameters = SPEND_PARAMETERS | {"objective": "gamma", "metric": "gamma"}
    spend = _train_booster(spend_parameters, spend_train, spend_validation, options)
    return GbdtModels(purchase, spend)


def _train_booster(
    parameters: dict[str, Any], train: TrainingSet, validation: TrainingSet, options: FitOptions
) -> "lgb.Booster":
    import lightgbm as lgb

    dataset = lgb.Dataset(
        train.features,
        train.target,
        weight=train.weight,
        feature_name=options.feature_names or "auto",
        free_raw_data=True,
    )
    callbacks: list[Any] = [lgb.early_stopping(options.patience, verbose=options.eval_period > 0)]
    if options.eval_period:
        n_pairs, n_features = train.features.shape
        print(f"{parameters['objective']}: {n_pairs:,} pairs, {n_features} features", flush=True)
        callbacks.append(lgb.log_evaluation(options.eval_period))
    return lgb.train(
        parameters | {"seed": options.seed},
        dataset,
        num_boost_round=options.max_rounds,
        valid_sets=[dataset.create_valid(validation.features, validation.target, weight=validation.weight)],
        valid_names=["validation"],
        callbacks=callbacks,
    )


def predict(model: GbdtModels, features: Array) -> tuple[Array, Array]:
    """Predict p(purchase) [P] and E[spend | purchase] [P] from features [P, F].

    Spend is in the shop's currency.
    """
    return np.asarray(model.purchase.predict(features)), np.asarray(model.spend.predict(features))


def rankings_by_order(pairs: LabeledPairs, probability: Array, spend: Array) -> dict[str, RankedLists]:
    """Return order → sorted candidates.

    `purchase` sorts by p(purchase), `value` by p(purchase) · E[spend | purchase].
    """
    return {
        "purchase": RankedLists(pairs.offsets, pairs.item, probability),
        "value": RankedLists(pairs.offsets, pairs.item, probability * spend),
    }
