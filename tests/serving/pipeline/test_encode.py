"""Serving encodes a checkout as training does."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.io.batches import to_batch
from exporting.exportable_run import item_ids, load_exportable_run
from exporting.golden_requests import to_checkouts
from models import schema
from models.schema import Catalog, Query
from serving import Checkout, Event, Line, Recommender
from serving.checkout import HISTORY_KINDS
from serving.pipeline.encode import QUERY_FIELDS, FeatureEncoder
from serving.storage.formats import CATALOG_FIELDS
from serving.storage.item_ids import ItemRowMap, build_slots
from serving.stores.base import EMPTY_HISTORY

NOW = 1_700_000_000
FEATURES = {
    "max_history": 3,
    "context": [{"name": "store", "values": ["10", "330"]}, {"name": "hour", "edges": [6.0, 12.0]}],
    "profile": [{"name": "age", "edges": []}],
}
IDS = pa.array(["", "a", "b"])
ROWS = ItemRowMap(IDS, build_slots(IDS))


def encode(checkout: Checkout) -> Query:
    encoder = FeatureEncoder(FEATURES, ROWS, np.array([0, 1.5, 2.5], np.float32))
    return Query(*encoder.encode(checkout, EMPTY_HISTORY, NOW))


def test_names_are_those_of_the_models() -> None:
    assert Query._fields == QUERY_FIELDS
    assert schema.HISTORY_KINDS == HISTORY_KINDS
    assert Catalog._fields == CATALOG_FIELDS


def test_real_examples_encode_as_in_training(run_folder, shared: Recommender) -> None:
    run = load_exportable_run(run_folder)
    table = pq.read_table(run.prepared.folder / "examples" / "test.parquet")
    training_queries = [to_batch(table.slice(row, 1)).query for row in range(len(table))]
    checkouts = to_checkouts(table, item_ids(run), run.schema.context, run.schema.profile)
    assert len(checkouts) > 30
    for checkout, query in zip(checkouts, training_queries, strict=True):
        encoded = shared.feature_encoder.encode(checkout, EMPTY_HISTORY, checkout.ts)
        expected = query._replace(snapshot=torch.zeros(1, dtype=torch.int64))
        for name, actual, wanted in zip(Query._fields, encoded, expected, strict=True):
            assert actual.dtype == wanted.dtype, name
            assert torch.equal(actual, wanted), name


def test_history_is_cut_and_in_order() -> None:
    events = [
        Event("a", NOW - 10),
        Event("b", NOW - 50),
        Event("a", NOW),
        Event("b", NOW + 5),
        Event("?", NOW - 20),
        Event("b", NOW - 5),
    ]
    query = encode(Checkout("u", [], history=events))
    assert query.history_item.tolist() == [0, 1, 2]
    assert query.history_ts.tolist() == [NOW - 20, NOW - 10, NOW - 5]
    assert query.history_offsets.tolist() == [0, 3]
    assert query.basket_offsets.tolist() == [0, 0]


def test_missing_prices_are_the_usual_ones() -> None:
    history = [Event("a", NOW - 9), Event("b", NOW - 8, "click"), Event("b", NOW - 7, price=9.0)]
    query = encode(Checkout("u", [Line("b"), Line("a", 2, 7.0), Line("?")], history=history))
    assert query.basket_price.tolist() == [2.5, 7.0, 0.0]
    assert query.history_price.tolist() == [1.5, 0.0, 9.0]
    assert query.history_kind.tolist() == [0, 1, 0]


def test_attributes() -> None:
    def codes(**context: str | float) -> list[int]:
        return encode(Checkout("u", [], context=context, profile={"age": 4})).context[0].tolist()

    assert encode(Checkout("u", [], profile={"age": 4})).profile.tolist() == [[1]]
    assert codes() == [0, 0]
    assert codes(store="330", hour=6.0) == [2, 2]
    assert codes(store=330, hour=5.9) == [2, 1]
    assert codes(store=330.0, hour="12") == [2, 3]
    assert codes(store="11", hour="noon", not_in_the_schema="x") == [0, 0]


def test_the_store_gives_history_and_profile(shared: Recommender) -> None:
    user_id, _ = list(shared.store.iter_users())[3]
    history = shared.store.get(user_id)
    checkout = Checkout(user_id, [], profile={"city": "city1"})
    query = Query(*shared.feature_encoder.encode(checkout, history, 2_000_000_000))
    assert query.history_item.tolist() == [shared.bundle.item_rows.row(item) for item in history.item_id]
    names = [attribute["name"] for attribute in shared.bundle.manifest["features"]["profile"]]
    assert query.profile[0, names.index("city")] == 2  # the checkout overrides the store
    assert query.profile[0, names.index("age")] > 0
