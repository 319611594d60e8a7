"""The ranker's inputs do not depend on the volume of the shop, its currency, or the age of its log."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.jagged import segment_ids
from models.ranking.features.interactions import InteractionFeatures
from models.ranking.features.selection import FeatureSelection
from models.ranking.features.user import UserFeatures
from models.schema import Catalog, Query
from tests.models.shops import DAY, random_candidates, random_catalog, random_query

MODEL = InteractionFeatures(categories=16, brands=5)
ABSOLUTE = InteractionFeatures(categories=16, brands=5, selection=FeatureSelection(relative=False))


def scale_volume(catalog: Catalog, factor: float) -> Catalog:
    """The catalog of a shop with `factor` times the orders and users."""
    return catalog._replace(
        orders_28d=catalog.orders_28d * factor,
        sales_7d=catalog.sales_7d * factor,
        buyers=catalog.buyers * factor,
    )


def scale_prices(query: Query, catalog: Catalog, factor: float) -> tuple[Query, Catalog]:
    """The same purchases in a currency of which one unit of today's is `factor`."""
    query = query._replace(
        history_price=query.history_price * factor, basket_price=query.basket_price * factor
    )
    return query, catalog._replace(
        price=catalog.price * factor, mean_line_spend=catalog.mean_line_spend * factor
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.sampled_from([0.1, 0.5, 10.0, 1000.0]))
def test_volume_changes_no_feature(seed: int, factor: float) -> None:
    query, candidates, catalog = random_query(seed), random_candidates(seed), random_catalog(seed)
    features, spend = MODEL(query, candidates, catalog)
    scaled, scaled_spend = MODEL(query, candidates, scale_volume(catalog, factor))
    torch.testing.assert_close(scaled, features, atol=1e-4, rtol=1e-4)
    assert torch.equal(scaled_spend, spend)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.sampled_from([0.5, 2.0, 100.0]))
def test_prices_change_no_feature_and_scale_the_expected_spend(seed: int, factor: float) -> None:
    query, candidates, catalog = random_query(seed), random_candidates(seed), random_catalog(seed)
    features, spend = MODEL(query, candidates, catalog)
    scaled_query, scaled_catalog = scale_prices(query, catalog, factor)
    scaled, scaled_spend = MODEL(scaled_query, candidates, scaled_catalog)
    torch.testing.assert_close(scaled, features, atol=1e-3, rtol=1e-3)
    known = spend > torch.log(torch.tensor(0.1))  # an unknown spend is one cent in any currency
    expected = spend + torch.log(torch.tensor(factor))
    torch.testing.assert_close(scaled_spend[known], expected[known], atol=1e-3, rtol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_age_of_the_log_changes_neither_tenure_nor_the_age_of_old_items(seed: int) -> None:
    query, candidates, catalog = random_query(seed), random_candidates(seed), random_catalog(seed)
    two_years, is_old = 730 * DAY, query.ts.min() - catalog.first_sold > 60 * DAY
    older_catalog = catalog._replace(first_sold=catalog.first_sold - two_years * is_old)
    events = torch.repeat_interleave(query.ts, query.history_offsets.diff())
    is_old_event = events - query.history_ts > 90 * DAY
    older_query = query._replace(history_ts=query.history_ts - two_years * is_old_event)
    features = ("age", "is_new_item", *UserFeatures._fields)
    columns = [name in features and name != "user_last_age" for name in MODEL.feature_names]
    before, after = (
        MODEL(query, candidates, catalog)[0][:, columns],
        MODEL(older_query, candidates, older_catalog)[0][:, columns],
    )
    torch.testing.assert_close(after, before)


def test_absolute_features_are_those_of_earlier_runs() -> None:
    """Counts and money as they are, and the features of the user that grow with the log."""
    query, candidates, catalog = random_query(3), random_candidates(3), random_catalog(3)
    features, spend = ABSOLUTE(query, candidates, catalog)
    column = dict(zip(ABSOLUTE.feature_names, features.T, strict=True))
    row = query.snapshot[segment_ids(candidates.offsets)]
    orders, sales, buyers = (
        field[row, candidates.item] for field in (catalog.orders_28d, catalog.sales_7d, catalog.buyers)
    )
    torch.testing.assert_close(column["orders_28d"], torch.log1p(orders))
    torch.testing.assert_close(column["price"], torch.log1p(catalog.price[row, candidates.item]))
    torch.testing.assert_close(column["sales_trend"], torch.log((4 * sales + 2) / (orders + 2)))
    torch.testing.assert_close(column["orders_per_buyer"], torch.log((orders + 0.5) / (buyers + 5)))
    assert {"user_lines", "user_lines_before", "user_trips"} <= column.keys()
    assert {*MODEL.feature_names} ^ column.keys() == {
        "user_lines", "user_lines_before", "user_trips", "user_basket_lines"
    }  # fmt: skip
    torch.testing.assert_close(MODEL(query, candidates, catalog)[1], spend)
