"""The slate policy selects six distinct, eligible items, under its caps and diversity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embeddings import pack_int8
from serving.pipeline.selection import SlateItems, select_slates, unit_vectors
from serving.pipeline.slate_policy import SLOTS, SlatePolicy, check_policy, impute_column, score_candidates

ITEMS, LEAVES, PRODUCTS = 40, 5, 8
TASKS = {"purchase": "binary", "value": "amount"}
EIGHTHS = st.integers(-40, 40).map(lambda n: n / 8)  # sums of them are exact


@st.composite
def shops(draw):
    """(score [n, C], eligible [n, C], item [n, C], facts of the items)"""
    n, width = draw(st.integers(1, 3)), draw(st.integers(0, 14))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    cells = st.lists(EIGHTHS, min_size=n * width, max_size=n * width)
    score = np.array(draw(cells), np.float64).reshape(n, width)
    item = np.stack([rng.permutation(ITEMS)[:width] + 1 for _ in range(n)])
    leaf, product = rng.integers(0, LEAVES, ITEMS + 1), rng.integers(0, PRODUCTS, ITEMS + 1)
    vectors = pack_int8(torch.from_numpy(rng.normal(size=(ITEMS + 1, 6)).astype(np.float32))).numpy()
    return score, rng.random((n, width)) < 0.8, item, SlateItems(leaf, product, vectors)


POLICIES = st.builds(
    SlatePolicy,
    product_cap=st.none() | st.integers(1, 6),
    category_cap=st.none() | st.integers(1, 6),
    diversity=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)


@given(shops(), POLICIES)
@settings(deadline=None, max_examples=200)
def test_six_distinct_and_eligible(shop, policy):
    _, eligible, item, items = shop
    leaf = items.leaf
    slates = select_slates(*shop, policy).column
    for row, columns in enumerate(slates):
        selected = columns[columns >= 0]
        assert len(selected) == len(set(selected)) == min(SLOTS, eligible[row].sum())
        assert (columns[len(selected) :] == -1).all()
        assert eligible[row, selected].all()
        cap = policy.category_cap
        if cap is not None and policy.product_cap is None:
            leaves = leaf[item[row]]
            count = np.bincount(leaves[selected], minlength=LEAVES)
            available = np.bincount(leaves[eligible[row]], minlength=LEAVES)
            fillable = available[0] + np.minimum(available[1:], cap).sum()  # slots under the cap
            if fillable >= SLOTS:
                assert (count[1:] <= cap).all()
            else:  # everything under the cap is selected before the cap gives way
                assert (count[1:] >= np.minimum(available[1:], cap)).all()


@given(shops(), st.integers(1, 3), st.sampled_from([None, 6]))
@settings(deadline=None, max_examples=200)
def test_a_product_has_as_many_slots_as_its_cap(shop, cap, category_cap):
    """In the order of the scores, those above the cap last, also beside a category cap that never binds."""
    score, eligible, item, items = shop
    slates = select_slates(*shop, SlatePolicy(product_cap=cap, category_cap=category_cap)).column
    for row, columns in enumerate(slates):
        order = [c for c in np.argsort(-score[row], kind="stable") if eligible[row, c]]
        shown, waiting = [], []
        for column in order:
            code = items.product[item[row, column]]
            is_full = code and sum(items.product[item[row, c]] == code for c in shown) >= cap
            (waiting if is_full else shown).append(column)
        assert columns[columns >= 0].tolist() == (shown + waiting)[:SLOTS]


@given(shops())
@settings(deadline=None, max_examples=100)
def test_without_caps_and_diversity_the_order_is_that_of_the_scores(shop):
    score, eligible, *_ = shop
    for row, columns in enumerate(select_slates(*shop, SlatePolicy(product_cap=None)).column):
        order = [c for c in np.argsort(-score[row], kind="stable") if eligible[row, c]]
        assert columns[columns >= 0].tolist() == order[:SLOTS]


@given(shops(), POLICIES, EIGHTHS)
@settings(deadline=None, max_examples=100)
def test_a_factor_on_all_scores_changes_nothing(shop, policy, shift):
    """The currency's unit, or a constant on all probabilities, is a shift in logarithms."""
    score, *inputs = shop
    np.testing.assert_array_equal(
        select_slates(score, *inputs, policy).column, select_slates(score + shift, *inputs, policy).column
    )


@given(shops(), POLICIES)
@settings(deadline=None, max_examples=50)
def test_rows_are_independent(shop, policy):
    score, eligible, item, items = shop
    batch = select_slates(*shop, policy)
    for row in range(len(score)):
        part = slice(row, row + 1)
        alone = select_slates(score[part], eligible[part], item[part], items, policy)
        np.testing.assert_array_equal(alone.column[0], batch.column[row])
        np.testing.assert_allclose(alone.min_gap[0], batch.min_gap[row])


def test_marginal_relevance_by_hand():
    """Two similar items and a different one: diversity 1/2 shows the different one second."""
    vectors = pack_int8(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])).numpy()
    score = np.log([[0.5, 0.4, 0.3]])
    items = SlateItems(np.zeros(4, np.int64), np.zeros(4, np.int64), vectors)
    inputs = (np.ones((1, 3), bool), np.array([[1, 2, 3]]), items)
    assert select_slates(score, *inputs, SlatePolicy()).column[0, :3].tolist() == [0, 1, 2]
    # Second slot at d = 1/2: item 2 has .4 - .5 = -.1, item 3 has .3 - 0.
    diverse = select_slates(score, *inputs, SlatePolicy(diversity=0.5))
    assert diverse.column[0, :3].tolist() == [0, 2, 1]
    assert select_slates(score, *inputs, SlatePolicy(diversity=0.05)).column[0, :3].tolist() == [0, 1, 2]
    # The smallest gap is that of the first slot: .5 against .4 of relevance 1 and .8, all at similarity -1.
    assert diverse.min_gap[0] == pytest.approx(0.1, abs=0.01)


def test_the_cap_gives_way_last():
    score = np.log([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]])
    leaf = np.array([0, 1, 1, 1, 1, 1, 2, 0])
    items = SlateItems(leaf, np.zeros(8, np.int64), np.zeros((8, 10), np.uint8))
    inputs = (np.ones((1, 7), bool), np.arange(1, 8)[None], items)
    slate = select_slates(score, *inputs, SlatePolicy(category_cap=2)).column[0]
    assert slate.tolist() == [0, 1, 5, 6, 2, 3]


def test_a_category_cap_gives_way_before_a_product_cap():
    score = np.log([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]])
    leaf, product = np.array([0, 1, 1, 1, 1, 2, 3, 4]), np.array([0, 5, 5, 0, 0, 0, 0, 0])
    items = SlateItems(leaf, product, np.zeros((8, 10), np.uint8))
    inputs = (np.ones((1, 7), bool), np.arange(1, 8)[None], items)
    slate = select_slates(score, *inputs, SlatePolicy(category_cap=1)).column[0]
    assert slate.tolist() == [0, 4, 5, 6, 2, 3]  # the second pack, at column 1, not at all


def test_far_candidates_fill_what_the_pool_cannot():
    """If one category fills the pool, a cap still selects candidates of other categories outside it."""
    width = 100
    score = np.linspace(0, -3, width)[None]
    leaf = np.array([0] + [1] * 90 + [2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    rng = np.random.default_rng(0)
    vectors = pack_int8(torch.from_numpy(rng.normal(size=(width + 1, 4)).astype(np.float32))).numpy()
    items = SlateItems(leaf, np.zeros(width + 1, np.int64), vectors)
    inputs = (np.ones((1, width), bool), np.arange(1, width + 1)[None], items)
    slate = select_slates(score, *inputs, SlatePolicy(category_cap=1, diversity=0.3)).column[0]
    assert slate.tolist() == [0, 90, 91, 92, 93, 94]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e30)), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_objective_between_purchases_and_revenue(pairs):
    purchase, spend = outputs = np.array(pairs).T
    ends = [score_candidates(SlatePolicy(revenue_weight=w), TASKS, outputs, {}) for w in (0.0, 1.0)]
    middle = score_candidates(SlatePolicy(revenue_weight=0.5), TASKS, outputs, {})
    assert np.isfinite([*ends, middle]).all()
    np.testing.assert_allclose(middle, (ends[0] + ends[1]) / 2, rtol=1e-12, atol=1e-9)
    positive = (purchase > 1e-6) & (spend > 1e-6)
    np.testing.assert_allclose(np.exp(ends[1][positive]), (purchase * spend)[positive], rtol=1e-9)


def test_margins():
    margin = np.array([np.nan, 0.2, 0.4, np.nan])
    np.testing.assert_allclose(impute_column("margin", margin), [0.3, 0.2, 0.4, 0.3])
    with pytest.raises(ValueError, match="no item has a margin: add `margin`"):
        impute_column("margin", np.full(3, np.nan))
    outputs, columns = np.array([[0.5] * 3, [10.0] * 3]), {"margin": np.array([0.5, 0.1, -0.2])}
    score = score_candidates(SlatePolicy(margin=True), TASKS, outputs, columns)
    assert score[0] > score[1] > score[2]  # items sold at a loss come last
    by_chance = SlatePolicy(margin=True, revenue_weight=0.0)
    assert len(set(score_candidates(by_chance, TASKS, outputs, columns))) == 1


def test_item_columns_of_an_objective():
    outputs, columns = np.array([[0.5] * 3, [10.0] * 3]), {"margin": np.array([0.5, -0.1, 0.2])}
    policy = SlatePolicy(objective="purchase * value * margin")
    check_policy(policy, TASKS, {"margin": (-0.1, 0.5)})
    score = score_candidates(policy, TASKS, outputs, columns)
    assert np.argsort(-score).tolist() == [0, 2, 1]
    np.testing.assert_allclose(np.exp(score[[0, 2]]), [2.5, 1.0])
    with pytest.raises(ValueError, match="no task or numeric item column margin"):
        check_policy(policy, TASKS, {})
    np.testing.assert_allclose(impute_column("price", np.array([1.0, np.nan, 3.0])), [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"slate.objective reads price, but no item has a price: add `p"):
        impute_column("price", np.full(3, np.nan))


def test_a_return_moves_an_item_down():
    tasks = TASKS | {"return": "binary"}
    outputs = np.array([[0.5, 0.45], [10.0, 10.0], [0.6, 0.1]])
    kept = score_candidates(SlatePolicy(objective="purchase * value * (1 - return)"), tasks, outputs, {})
    assert kept[0] < kept[1]
    by_value = score_candidates(SlatePolicy(), tasks, outputs, {})
    assert by_value[0] > by_value[1]


def test_vectors_are_those_of_the_models():
    vectors = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.normalize(vectors, dim=1).numpy()
    np.testing.assert_allclose(unit_vectors(pack_int8(vectors).numpy()), expected, atol=0.01)
    assert not unit_vectors(pack_int8(torch.zeros(1, 4)).numpy()).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"revenue_weight": 1.5}, "slate.revenue_weight is 1.5: expected a number from 0 to 1"),
        ({"revenue_weight": "purchase"}, "revenue_weight is 'purchase'"),
        ({"revenue_weight": float("nan")}, "revenue_weight is nan"),
        ({"diversity": True}, "diversity is True"),
        ({"margin": 0.5}, "slate.margin is 0.5: expected true or false"),
        ({"category_cap": 0}, "category_cap is 0: expected a whole number from 1, or null"),
        ({"category_cap": 1.5}, "category_cap is 1.5"),
    ],
)
def test_policies_out_of_range_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        SlatePolicy(**fields)
