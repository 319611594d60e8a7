"""Item attributes and vectors of items.parquet as tensors."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from data import catalog
from data.catalog import build_catalog, usual_item_first
from models.embeddings import unpack_int8
from models.schema import SNAPSHOT_FIELDS

ROWS = 5


def items_table(**columns: pa.Array) -> pa.Table:
    """The columns of items.parquet that a catalog needs, and the given ones."""
    return pa.table(
        {
            "category_codes": pa.array([[0, 0]] + [[1, 2]] * (ROWS - 1), pa.list_(pa.int32())),
            **{name: pa.array(range(ROWS), pa.int32()) for name in ("leaf", "brand_code", "first_sold")},
            "available": pa.array([False] + [True] * (ROWS - 1)),
            "tokens": pa.array([[]] * ROWS, pa.list_(pa.int32())),
            "token_weights": pa.array([[]] * ROWS, pa.list_(pa.float32())),
            **columns,
        }
    )


def load(items: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
    snapshot = {name: torch.zeros(1, items.num_rows) for name in SNAPSHOT_FIELDS}
    loaded, _ = build_catalog(items, snapshot)
    return loaded.attributes, loaded.content


@pytest.mark.parametrize("packed_rows", [2, 100])
def test_attributes_and_vectors(monkeypatch: pytest.MonkeyPatch, packed_rows: int) -> None:
    monkeypatch.setattr(catalog, "PACKED_ROWS", packed_rows)
    vectors = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[[0, 3]] = 0
    codes = [[0, 0], [1, 2], [3, 0], [2, 2], [1, 1]]
    attributes, content = load(
        items_table(
            attribute_codes=pa.array(codes, pa.list_(pa.int32())),
            content=pa.array(vectors.tolist(), pa.list_(pa.float32())),
        )
    )
    assert attributes.tolist() == codes
    assert (content.dtype, content.shape) == (torch.uint8, (ROWS, 3 + 8))
    np.testing.assert_allclose(unpack_int8(content).numpy(), vectors, atol=0.005)
    assert not unpack_int8(content)[[0, 3]].any()


@pytest.mark.parametrize("columns", [(), ("attribute_codes", "content")])
def test_items_without_attributes_and_vectors(columns: tuple[str, ...]) -> None:
    types = {"attribute_codes": pa.int32(), "content": pa.float32()}
    empty = {name: pa.array([[]] * ROWS, pa.list_(types[name])) for name in columns}
    attributes, content = load(items_table(**empty))
    assert (attributes.dtype, attributes.shape) == (torch.int64, (ROWS, 0))
    assert (content.dtype, content.shape) == (torch.uint8, (ROWS, 0))


def test_the_usual_item_is_the_first_row() -> None:
    """Counts per item that was ever sold; prices as geometric means over order lines, else over items."""
    fields = {name: torch.zeros(2, ROWS) for name in SNAPSHOT_FIELDS}
    fields["orders_28d"][1] = torch.tensor([9.0, 3.0, 1.0, 0.0, 0.0])
    fields["sales_7d"][1, 1] = 2
    fields["buyers"][:, 1:] = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 2.0, 0.0]])
    fields["price"][:, 1:] = torch.tensor([2.0, 32.0, 8.0, 0.0])
    usual = usual_item_first(fields)
    assert usual["orders_28d"][:, 0].tolist() == pytest.approx([0, 4 / 3])
    assert usual["sales_7d"][:, 0].tolist() == pytest.approx([0, 2 / 3])
    assert usual["buyers"][:, 0].tolist() == pytest.approx([0, 2])
    assert usual["price"][:, 0].tolist() == pytest.approx([8, (2 * 2 * 2 * 32) ** (1 / 4)])
    assert usual["mean_line_spend"][:, 0].tolist() == [0, 0]
    for name, values in fields.items():
        assert torch.equal(usual[name][:, 1:], values[:, 1:])
    assert fields["orders_28d"][1, 0] == 9  # the argument is unchanged
