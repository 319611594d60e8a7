"""Vectors of item titles from a sentence model, projected to fewer dimensions (`features=minilm`).

    title, category path, brand ─ item_texts ─▶ texts ─ TextEncoder ─▶ [n, 384] ─ projection ─▶ [n, title_dim]

Each distinct text is encoded once. `titles_minilm.parquet` beside the prepared folders stores the vectors for
later preparations. The projection depends only on the model, not on the shop. So two preparations give the
same vectors: a warm start can keep its weights, and an item update needs no file of the training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from serving.files import write_atomically

if TYPE_CHECKING:  # the module needs torch, which takes seconds to import
    from data.tables.text_encoder import TextEncoder

TITLE_ENCODERS = ("minilm",)
CACHE_FILE = "titles_minilm.parquet"
N_BASIS_PHRASES = 2048  # phrases whose vectors define the projection


def title_dim(features: dict[str, object]) -> int:
    """The length of a title's vector by the settings `features`. 0 if titles have no vectors.

    Raises DataError for an unknown encoder, or one whose packages are missing.
    """
    encoder = features.get("title_encoder")
    if encoder is None:
        return 0
    if encoder not in TITLE_ENCODERS:
        raise DataError(f"features.title_encoder={encoder}: expected null or {', '.join(TITLE_ENCODERS)}")
    from data.tables.text_encoder import require_text_encoder

    require_text_encoder()
    return int(str(features["title_dim"]))


def item_texts(items: pa.Table) -> list[str]:
    """Returns the text [n] of each item, from the columns `item_id, title, category, brand`. "" for none.

    The text is the title, then the category levels from the leaf up, then the brand. Words are not repeated.
    A title that equals the id is ignored, and so is a brand without letters.
    """
    columns = (items[name].to_pylist() for name in ("item_id", "title", "category", "brand"))
    return [_item_text(*row) for row in zip(*columns, strict=True)]


def _item_text(item_id: str, title: str | None, category: str | None, brand: str | None) -> str:
    text = "" if title is None or title == item_id else title.strip()
    levels = [level.strip() for level in (category or "").split("/")]
    has_letters = brand is not None and any(c.isalpha() for c in brand)
    for part in [*reversed(levels), *([brand] if brand is not None and has_letters else [])]:
        if part.lower() not in text.lower():
            text = f"{text}, {part}" if text else part
    return text


def encode_titles(items: pa.Table, dim: int, cache_folder: Path | None = None) -> np.ndarray:
    """Encodes the items' texts (`item_texts`) as unit vectors: float32 [n, dim], zeros without a text.

    `cache_folder` keeps the vectors of texts. Raises DataError where the packages of the model are missing.
    """
    out = np.zeros((items.num_rows, dim), np.float32)
    if not dim:
        return out
    texts = pa.array(item_texts(items), pa.string()).dictionary_encode()
    distinct, row = texts.dictionary.to_pylist(), texts.indices.to_numpy()
    if not any(distinct):
        return out
    from data.tables.text_encoder import load_text_encoder

    encoder = load_text_encoder()
    mean, axes = projection(encoder, dim)
    vectors = (_encode_with_cache(encoder, distinct, cache_folder) - mean) @ axes
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norm > 0, norm, 1)
    vectors[[not text for text in distinct]] = 0
    out[:] = vectors[row]
    return out


def projection(encoder: "TextEncoder", dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean [W] and principal axes [W, dim] of N_BASIS_PHRASES phrases, the largest variance first.

    A phrase is three words of the tokenizer's vocabulary, so that the axes are the same for every shop.
    Raises DataError for more axes than the model has.
    """
    vocabulary = encoder.tokenizer.get_vocab()
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 3)
    order = np.random.default_rng(0).integers(len(words), size=(N_BASIS_PHRASES, 3))
    vectors = encoder.encode([" ".join(words[i] for i in row) for row in order]).astype(np.float64)
    if dim > vectors.shape[1]:
        raise DataError(f"features.title_dim={dim}: expected 1 to {vectors.shape[1]}")
    mean = vectors.mean(0)
    _, axes = np.linalg.eigh((vectors - mean).T @ (vectors - mean))  # eigenvalues ascend
    axes = axes[:, ::-1][:, :dim]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0)
    # the sign makes the direction of an axis deterministic
    return mean.astype(np.float32), (axes * np.sign(largest)).astype(np.float32)


def _encode_with_cache(encoder: "TextEncoder", texts: Sequence[str], folder: Path | None) -> np.ndarray:
    """Returns the vectors [n, W] of distinct texts.

    All vectors are rounded to float16, so that a new vector equals the cached one.
    """
    file = folder / CACHE_FILE if folder is not None else None
    kept = _read_cache(file) if file is not None else {}
    new = [text for text in texts if text not in kept]
    for text, vector in zip(new, encoder.encode(new).astype(np.float16), strict=True):
        kept[text] = vector.tobytes()
    if file is not None and new:
        file.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table(
            {"text": pa.array(kept, pa.string()), "vector": pa.array(kept.values(), pa.binary())}
        )
        with write_atomically(file) as partial:
            pq.write_table(table, partial, compression="zstd")
    return np.stack([np.frombuffer(kept[text], np.float16) for text in texts]).astype(np.float32)


def _read_cache(file: Path) -> dict[str, bytes]:
    if not file.is_file():
        return {}
    try:
        table = pq.read_table(file)
        return dict(zip(table["text"].to_pylist(), table["vector"].to_pylist(), strict=True))
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"{file}: cannot be read: {error}. Delete it: titles are encoded again") from error
