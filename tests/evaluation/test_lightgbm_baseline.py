import numpy as np
import pytest

from evaluation import lightgbm_baseline
from evaluation.jagged import mask_jagged, to_offsets
from evaluation.labeled_pairs import LabeledPairs
from evaluation.metrics import auc, probability_quality

OPTIONS = lightgbm_baseline.FitOptions(
    feature_names=["habit", "price", "noise"], max_rounds=300, patience=20, eval_period=0
)


def pairs(seed, n=400, per=20):
    """Purchases follow the first feature, spend the second; the third is noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n * per, 3)).astype(np.float32)
    purchase = rng.random(n * per) < 1 / (1 + np.exp(3 - 2 * features[:, 0]))
    value = purchase * np.exp(1 + features[:, 1]) * rng.gamma(8, 1 / 8, n * per)
    item = np.tile(np.arange(1, per + 1), n)
    weight = np.ones(n * per, np.float32)
    return LabeledPairs(to_offsets(np.full(n, per)), item, features, purchase, value, weight)


@pytest.fixture(scope="module")
def model():
    return lightgbm_baseline.fit(pairs(0), pairs(1), OPTIONS)


def test_it_learns_both_heads(model):
    test = pairs(2)
    probability, spend = lightgbm_baseline.predict(model, test.features)
    quality = probability_quality(test.purchase, probability)
    true_auc = auc(test.purchase, test.features[:, 0])  # of the true order
    assert quality["auc"] > true_auc - 0.02
    assert quality["ece"] < 0.02
    assert quality["predicted_over_observed"] == pytest.approx(1, abs=0.1)
    truth = np.exp(1 + test.features[:, 1])
    assert np.corrcoef(np.log(spend), np.log(truth))[0, 1] > 0.95
    assert spend[test.purchase].sum() == pytest.approx(test.value.sum(), rel=0.1)


def test_weights_make_up_for_sampled_negatives(model):
    """A fifth of the negatives at five times the weight: the probabilities stay what they were."""
    rng = np.random.default_rng(0)

    def sample_pairs(every):
        is_sampled = every.purchase | (rng.random(len(every.purchase)) < 0.2)
        weight = np.where(every.purchase, 1, 5).astype(np.float32)
        return mask_jagged(every._replace(weight=weight), is_sampled)

    sampled_model = lightgbm_baseline.fit(sample_pairs(pairs(0)), sample_pairs(pairs(1)), OPTIONS)
    test = pairs(2)
    quality = probability_quality(test.purchase, lightgbm_baseline.predict(sampled_model, test.features)[0])
    assert quality["predicted_over_observed"] == pytest.approx(1, abs=0.1)


def test_it_stops_early_and_names_its_features(model):
    assert 0 < model.purchase.best_iteration < 300
    assert model.purchase.feature_name() == ["habit", "price", "noise"]


def test_both_orders(model):
    test = pairs(2, n=3)
    probability, spend = lightgbm_baseline.predict(model, test.features)
    orders = lightgbm_baseline.rankings_by_order(test, probability, spend)
    np.testing.assert_array_equal(orders["purchase"].score, probability)
    np.testing.assert_array_equal(orders["value"].score, probability * spend)
    assert orders["value"].offsets.tolist() == [0, 20, 40, 60]


def test_the_seed_repeats_a_fit(model):
    again = lightgbm_baseline.fit(pairs(0), pairs(1), OPTIONS)
    np.testing.assert_array_equal(
        lightgbm_baseline.predict(model, pairs(2).features)[0],
        lightgbm_baseline.predict(again, pairs(2).features)[0],
    )


def test_progress_is_shown(capfd):
    options = lightgbm_baseline.FitOptions(max_rounds=10, eval_period=5)
    lightgbm_baseline.fit(pairs(0, 50), pairs(1, 50), options)
    output = capfd.readouterr().out
    assert "binary: 1,000 pairs, 3 features" in output
    assert "validation's gamma" in output


def test_nothing_to_learn_is_an_error():
    data = pairs(0, 20)
    without_purchases = data._replace(purchase=np.zeros_like(data.purchase))
    with pytest.raises(ValueError, match="validation pairs hold no purchase"):
        lightgbm_baseline.fit(data, without_purchases, OPTIONS)
