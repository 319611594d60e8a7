"""New items get in serving what an export computes of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.item_changes import read_item_updates
from exporting.exportable_run import ExportableRun, load_exportable_run, load_item_tower
from exporting.item_updates import update_run
from serving.live_items.changes import make_change
from serving.live_items.item_features import ItemFeatureEncoder
from serving.storage.bundle import open_bundle
from tests.exporting.bundles import make_bundle

ITEMS = [
    {"item_id": "plain"},
    {"item_id": "titled", "title": "Fresh MILK, 1_l — Größe İstanbul x² milk"},
    {"item_id": "described", "title": "milk", "description": "organic whole milk bread"},
    {"item_id": "of a category", "category": "food / dairy", "brand": "acme", "price": 2.5},
    {"item_id": "of an unknown one", "title": "tea", "category": "food/nowhere/deep", "price": 0.0},
]


def known_values(run: ExportableRun) -> list[dict[str, object]]:
    """New items of the run's own categories, brands, words and attributes."""
    items = run.items.slice(1)
    return [
        {
            "item_id": f"copy of {row}",
            "title": items["title"][row].as_py(),
            "category": items["category"][row].as_py(),
            "brand": items["brand"][row].as_py(),
            "price": 1.0 + row,
            "attributes": {"color": "red" if row % 2 else "none such", "weight": 0.3 * row},
            "vectors": {"embedding": [1.0, -2.0, 0.5, float(row)]},
        }
        for row in range(0, 80, 7)
    ]


def test_a_new_item_has_the_columns_of_an_export(featured_run: Path, tmp_path: Path) -> None:
    trained = load_exportable_run(featured_run)
    items = [*ITEMS, *known_values(trained)]
    flat = [
        {**{k: v for k, v in item.items() if k not in ("attributes", "vectors")},
         **item.get("attributes", {}), **item.get("vectors", {})}  # type: ignore[dict-item]
        for item in items
    ]  # fmt: skip
    names = dict.fromkeys(name for item in flat for name in item)
    kinds = {"price": pa.float64(), "weight": pa.float64(), "embedding": pa.list_(pa.float32())}
    table = pa.table({n: pa.array([i.get(n) for i in flat], kinds.get(n, pa.string())) for n in names})
    pq.write_table(table, tmp_path / "items.parquet")
    updates = read_item_updates(tmp_path / "items.parquet", trained.schema)
    expected = update_run(trained, load_item_tower(trained), updates).catalog
    first = trained.items.num_rows

    bundle = open_bundle(make_bundle(featured_run, tmp_path / "bundle", "bundle.spare_items=3"))
    given = [make_change({k: v for k, v in item.items() if v is not None}).values for item in items]
    got = ItemFeatureEncoder(bundle.folder, bundle.manifest).encode(given)
    for name in ("category", "leaf", "brand", "attributes", "content"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name)[first:].numpy(), name)
    np.testing.assert_array_equal(got.price, expected.price[0, first:].numpy())
    codes, reference = got.vectors, expected.vectors[first:].numpy()
    unpack = torch.ops.quantized.embedding_bag_byte_unpack
    np.testing.assert_allclose(
        unpack(torch.from_numpy(codes)), unpack(torch.from_numpy(reference)), atol=1e-6
    )
    assert (codes == reference).mean() > 0.999  # bits: sums may differ in their order
