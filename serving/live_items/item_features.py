"""Features and vector of a new item, computed while serving in the same way as by an export.

title, category, … ─ schema.json ─▶ codes, tokens ─ item_tower.ts ─▶ packed vector
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..pipeline.encode import attribute_coder
from ..storage.bundle import Bundle, open_module

ITEM_TOWER_FILE = "item_tower.ts"  # bundles of earlier releases lack it
TOWER_ENTRY = "item_tower"  # of the manifest: how its input is made
SCHEMA_FILE = "schema.json"
WORD_SEPARATOR = re.compile(r"[\W_]+")  # data/feature_schema.py has the same classes of characters
NO_TOKENS: tuple[tuple[int, float], ...] = ()


class NewItems(NamedTuple):
    """The features of U new items. Shapes and types are those of the catalog."""

    category: NDArray[np.int64]  # [U, L]
    leaf: NDArray[np.int64]  # [U]
    brand: NDArray[np.int64]  # [U]
    attributes: NDArray[np.int64]  # [U, A]
    content: NDArray[np.uint8]  # [U, E+8], or [U, 0]
    price: NDArray[np.float32]  # [U], 0 for unknown
    vectors: NDArray[np.uint8]  # [U, D+8]


def has_item_tower(bundle: Bundle) -> bool:
    """Whether the bundle can place new items."""
    return ITEM_TOWER_FILE in bundle.manifest["files"] and TOWER_ENTRY in bundle.manifest


class ItemFeatureEncoder:
    """Encodes new items with the vocabularies and the item tower of a bundle."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        schema: dict[str, Any] = json.loads((folder / SCHEMA_FILE).read_text())
        self.tokens_per_item = int(manifest[TOWER_ENTRY]["tokens_per_item"])
        self.levels = int(schema["category_levels"])
        self.categories = _codes(schema["categories"])
        self.brands = _codes(schema["brands"])
        self.token_codes, self.token_idf = _codes(schema["tokens"]), schema["token_idf"]
        self.attribute_coders = [attribute_coder(each) for each in schema.get("item_attributes", [])]
        self.vectors = [(each["name"], int(each["dim"])) for each in schema.get("item_vectors", [])]
        self.tower: Callable[..., Tensor] = open_module(folder / ITEM_TOWER_FILE)

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise ValueError, which names the field, for a vector whose length differs from the bundle's."""
        for name, dim in self.vectors:
            vector = values.get(f"vector.{name}")
            if vector is not None and len(vector) != dim:
                raise ValueError(f"vector.{name}: {len(vector)} numbers, the bundle's vectors have {dim}")

    @torch.inference_mode()
    def encode(self, items: Sequence[Mapping[str, Any]]) -> NewItems:
        """The features of items, each given by its live fields (serving/live_items/changes.py)."""
        paths = [self._path_codes(item.get("category", "")) for item in items]
        category = np.array(paths, np.int64).reshape(len(items), self.levels)
        brand = np.array([self.brands.get(item.get("brand", ""), 0) for item in items], np.int64)
        attributes = np.array(
            [[code(item.get(f"attribute.{name}")) for name, code in self.attribute_coders] for item in items],
            np.int64,
        ).reshape(len(items), len(self.attribute_coders))
        price = np.array([item.get("price", 0.0) for item in items], np.float32)
        content = self._content(items)
        bags = [self._tokens(item) for item in items]
        tokens = [pair for bag in bags for pair in bag]
        vectors = self.tower(
            torch.from_numpy(category),
            torch.from_numpy(brand),
            torch.from_numpy(attributes),
            torch.from_numpy(content),
            torch.from_numpy(price),
            (
                torch.tensor([code for code, _ in tokens], dtype=torch.int64),
                torch.tensor([len(bag) for bag in bags], dtype=torch.int64),
                torch.tensor([weight for _, weight in tokens], dtype=torch.float32),
            ),
        )
        # Categories are sorted, so of the prefixes of a path the deepest has the greatest code.
        return NewItems(
            category, category.max(1, initial=0), brand, attributes, content, price, vectors.numpy()
        )

    def _path_codes(self, category: str) -> list[int]:
        """The codes of a path's prefixes, one for each level; the last level stands for the whole path."""
        parts = [part.strip() for part in category.split("/") if part.strip()]
        prefixes = ["/".join(parts[: level + 1]) for level in range(min(len(parts), self.levels))]
        if len(prefixes) == self.levels and prefixes:
            prefixes[-1] = "/".join(parts)
        codes = [self.categories.get(prefix, 0) for prefix in prefixes]
        return codes + [0] * (self.levels - len(codes))

    def _tokens(self, item: Mapping[str, Any]) -> Sequence[tuple[int, float]]:
        """Returns the tokens of highest TF-IDF, by code, and their weights, which have unit norm."""
        text = f"{item.get('title', '')} {item.get('description', '')}".lower()
        counts = Counter(word for word in WORD_SEPARATOR.split(text) if word in self.token_codes)
        by_code = {self.token_codes[word]: n for word, n in counts.items()}
        weights = {code: n * self.token_idf[code - 1] for code, n in by_code.items()}
        best = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[: self.tokens_per_item]
        if not best:
            return NO_TOKENS
        norm = math.sqrt(sum(weight * weight for _, weight in best))
        return [(code, weight / norm) for code, weight in sorted(best)]

    def _content(self, items: Sequence[Mapping[str, Any]]) -> NDArray[np.uint8]:
        """The vectors that the shop sent with the items, at unit length and packed; zeros if missing."""
        if not self.vectors:
            return np.zeros((len(items), 0), np.uint8)
        parts = []
        for name, dim in self.vectors:
            part = np.zeros((len(items), dim), np.float64)
            for row, item in enumerate(items):
                if (vector := item.get(f"vector.{name}")) is not None and len(vector) == dim:
                    part[row] = vector
            largest = np.abs(part).max(1, keepdims=True)
            part /= np.where(largest > 0, largest, 1)  # else the squares of huge numbers overflow
            norm = np.sqrt((part**2).sum(1, keepdims=True))
            parts.append((part / np.where(norm > 0, norm, 1)).astype(np.float32))
        packed: Tensor = torch.ops.quantized.embedding_bag_byte_prepack(
            torch.from_numpy(np.concatenate(parts, axis=1))
        )
        return packed.numpy()


def _codes(values: Sequence[str]) -> dict[str, int]:
    """Returns value → code. Codes start at 1."""
    return {value: code for code, value in enumerate(values, start=1)}
