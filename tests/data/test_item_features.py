"""A shop's own columns of items: attributes and vectors, in preparation and in item updates."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.feature_schema import FeatureSchema
from data.item_changes import (
    ITEM_UPDATE_SCHEMA,
    apply_item_updates,
    item_update_schema,
    merge_item_updates,
    read_item_updates,
)
from data.prepare import prepare
from tests.data.conftest import config, save
from tests.data.shop import make_shop

TYPES = {"embedding": pa.list_(pa.float32()), "hash": pa.uint64()}  # Arrow infers others
COLORS = ["red", "blue", None, "green", "red", "blue", "blue"]


class PreparedShop(NamedTuple):
    folder: Path  # prepared
    rows: list[dict[str, Any]]  # of the shop's items
    printed: str


def item_rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = make_shop(users=12, items=24, days=70)["items"]
    for k, row in enumerate(rows):
        row |= {
            "color": COLORS[k % len(COLORS)],
            "weight_kg": [None, math.inf, math.nan][k] if k < 3 else k / 7,
            "warranty": k % 3 if k % 5 else None,
            "organic": k % 2 == 0,
            "sku": f"sku-{k}",
            "tags": ["a"],
            "supplier": "s1",
            "notes": None,
            "_score": k / 3,
            "hash": 2**64 - 1 - k % 2,
            "a.title": f"t{k % 2}",
            "embedding": None if k % 6 == 0 else [0.0] * 3 if k == 1 else rng.normal(0, 1, 3).tolist(),
            "image": [] if k == 2 else [1.0, float(k % 4)],
        }
    return rows


def write_items(folder: Path, rows: list[dict[str, Any]]) -> None:
    """items.parquet: CSV has no lists."""
    table = pa.table({c: pa.array([row[c] for row in rows], TYPES.get(c)) for c in rows[0]})
    pq.write_table(table, folder / "items.parquet")
    (folder / "items.csv").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedShop:
    folder = tmp_path_factory.mktemp("shop")
    tables = make_shop(users=12, items=24, days=70)
    tables["orders"].append({**tables["orders"][0], "item_id": "unlisted"})
    save(folder, tables)
    rows = item_rows()
    write_items(folder, rows)
    cfg = config(folder)
    cfg["features"] |= {"ignore_columns": ["supplier", "items.image", "a.title"], "attribute_edges": 4}
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *parts, **_: lines.append(" ".join(map(str, parts))))
        out = prepare(cfg)
    return PreparedShop(out, rows, "\n".join(lines))


def expected_codes(row: dict[str, Any], schema: FeatureSchema) -> list[int]:
    codes = []
    for attribute in schema.item_attributes:
        value = row.get(attribute.name)
        if attribute.values is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            codes.append(attribute.values.index(text) + 1 if text in attribute.values else 0)
        elif value is None or math.isnan(value):
            codes.append(0)
        else:
            codes.append(1 + sum(edge <= value for edge in attribute.edges or []))
    return codes


def unit(vector: list[float] | None) -> list[float]:
    vector = vector or [0.0] * 3
    norm = math.hypot(*vector)
    return [x / norm if norm else 0.0 for x in vector]


def test_attributes_and_vectors_are_features(prepared: PreparedShop) -> None:
    schema = FeatureSchema.load(prepared.folder)
    attributes = {a.name: a for a in schema.item_attributes}
    assert list(attributes) == ["color", "weight_kg", "warranty", "organic", "hash"]
    assert attributes["color"].values == ["blue", "green", "red"]
    assert attributes["warranty"].values == ["0", "1", "2"]
    assert attributes["organic"].values == ["false", "true"]
    assert attributes["hash"].values == [str(2**64 - 2), str(2**64 - 1)]
    assert len(attributes["weight_kg"].edges or []) == 4
    assert [tuple(vector) for vector in schema.item_vectors] == [("embedding", 3)]
    assert schema.table_sizes()["item_attributes"] == [4, 6, 4, 3, 3]
    assert schema.table_sizes()["content_dim"] == 3
    assert FeatureSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema

    items = pq.read_table(prepared.folder / "items.parquet")
    assert items.schema.field("content").type == pa.list_(pa.field("element", pa.float32()))
    rows = items.to_pylist()
    listed = rows[1 : 1 + len(prepared.rows)]
    for row, source in zip(listed, prepared.rows, strict=True):
        assert row["item_id"] == source["item_id"]
        assert row["attribute_codes"] == expected_codes(source, schema), row["item_id"]
        assert row["content"] == pytest.approx(unit(source["embedding"]), abs=1e-6)
        weight = source["weight_kg"]
        assert row["attribute_weight_kg"] == (
            weight if weight is not None and math.isfinite(weight) else None
        )
        assert row["attribute_warranty"] == source["warranty"]
    for row in (rows[0], rows[-1]):  # the unknown item, and one that the shop does not list
        assert (row["attribute_codes"], row["content"]) == ([0, 0, 0, 0, 0], [0, 0, 0])


def test_the_summary_names_what_is_read_and_what_is_not(prepared: PreparedShop) -> None:
    line = next(line for line in prepared.printed.split("\n") if "item attributes" in line)
    attributes = (
        "color (3 values), weight_kg (numeric), warranty (3 values), organic (2 values), hash (2 values)"
    )
    assert f"item attributes: {attributes}" in line
    assert "vectors: embedding (3)" in line
    for column, reason in {
        "sku": "text that never repeats", "tags": "list of text", "supplier": "ignored", "image": "ignored",
        "notes": "empty", "_score": "the name begins with _: rename it", "a.title": "ignored",
    }.items():  # fmt: skip
        assert f"items.{column} ({reason})" in line


def test_columns_that_cannot_be_ignored(tmp_path: Path) -> None:
    save(tmp_path, make_shop(users=12, items=24, days=70))
    for name, words in {
        "suplier": "'suplier', which no table has",
        "title": "a column of the contract of items",
    }.items():
        cfg = config(tmp_path)
        cfg["features"]["ignore_columns"] = [name]
        with pytest.raises(DataError, match=rf"features\.ignore_columns names .*{words}"):
            prepare(cfg)


def test_a_schema_of_the_release_before(prepared: PreparedShop) -> None:
    text = json.loads((prepared.folder / "schema.json").read_text())
    schema = FeatureSchema.from_json(
        {k: v for k, v in text.items() if k not in ("item_attributes", "item_vectors")}
    )
    assert (schema.item_attributes, schema.item_vectors, schema.table_sizes()["content_dim"]) == ([], [], 0)


def test_updates_with_the_same_values_change_nothing(prepared: PreparedShop, tmp_path: Path) -> None:
    schema, items = FeatureSchema.load(prepared.folder), pq.read_table(prepared.folder / "items.parquet")
    names = ["item_id", "color", "weight_kg", "warranty", "organic", "embedding"]
    path = tmp_path / "items.parquet"
    write_items(tmp_path, [{c: row[c] for c in names} for row in prepared.rows])
    updates = read_item_updates(path, schema)
    assert updates.schema == item_update_schema(schema)
    assert apply_item_updates(items, updates, schema, 48).equals(items)


def test_updates_of_attributes_and_vectors(prepared: PreparedShop, tmp_path: Path) -> None:
    """Null keeps the old value; a new item has what the update gives; CSV and older changes merge."""
    schema, items = FeatureSchema.load(prepared.folder), pq.read_table(prepared.folder / "items.parquet")
    older = pa.Table.from_pylist([{"item_id": "i003", "price": 9.0}], schema=ITEM_UPDATE_SCHEMA)
    path = tmp_path / "changes.csv"
    path.write_text(
        "item_id,color,weight_kg,warranty,embedding\n"
        'i003,green,,2.0,"[3, 0, 4]"\ni004,purple,2.5,,\nnew,red,0.1,1,"[0, -2, 0]"\nbare,,,,\n'
    )
    merged = merge_item_updates(older, read_item_updates(path, schema))
    assert merged.schema.names == item_update_schema(schema).names
    later = pa.Table.from_pylist([{"item_id": "new", "embedding": [1.0, 0, 0]}], schema=merged.schema)
    merged = merge_item_updates(merged, later)
    rows = {row["item_id"]: row for row in apply_item_updates(items, merged, schema, 48).to_pylist()}
    before = {row["item_id"]: row for row in items.to_pylist()}
    source = {row["item_id"]: row for row in prepared.rows}

    changed = source["i003"] | {"color": "green", "warranty": 2}
    assert rows["i003"]["price"] == 9.0
    assert rows["i003"]["attribute_codes"] == expected_codes(changed, schema)
    assert rows["i003"]["content"] == pytest.approx([0.6, 0, 0.8])
    assert rows["i003"]["attribute_warranty"] == 2.0
    assert rows["i003"]["attribute_weight_kg"] == before["i003"]["attribute_weight_kg"]
    codes = expected_codes(source["i004"] | {"color": "purple", "weight_kg": 2.5}, schema)
    assert rows["i004"]["attribute_codes"] == codes
    assert codes[0] == 0, "a value that training did not see is unknown"
    assert rows["i004"]["content"] == before["i004"]["content"]
    assert rows["new"]["attribute_codes"] == expected_codes(
        {"color": "red", "weight_kg": 0.1, "warranty": 1}, schema
    )
    assert rows["new"]["content"] == [1, 0, 0]
    assert (rows["bare"]["attribute_codes"], rows["bare"]["content"]) == ([0, 0, 0, 0, 0], [0, 0, 0])
    untouched = set(before) - {"i003", "i004"}
    assert {i: rows[i] for i in untouched} == {i: before[i] for i in untouched}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'item_id,embedding\na,"[1, 2]"\n',
            "'embedding' has vectors of 2 numbers, but the last training had vectors of 3",
        ),
        ("item_id,embedding\na,none\n", "'embedding' is string, expected a list of numbers"),
        ("item_id,weight_kg\na,heavy\n", "'weight_kg' is text, expected number"),
        ("item_id,colour\na,red\n", "'colour' is unknown, .*rename it to 'color'"),
        ("item_id,sku\na,red\n", "'sku' is unknown, .*remove it"),
    ],
)
def test_updates_that_cannot_be_used(prepared: PreparedShop, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "changes.csv").write_text(text)
    with pytest.raises(DataError, match=rf"(?s)changes\.csv: column {words}"):
        read_item_updates(tmp_path / "changes.csv", FeatureSchema.load(prepared.folder))
