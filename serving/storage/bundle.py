"""A bundle folder → checked, loaded modules, index and catalog.

The only file of `serving` that calls `torch.jit`.
"""

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from .item_ids import ItemRowMap
from .mapped_table import MappedTable
from .vector_index import ItemIndex, SearchParams, read_index

FORMAT_VERSION = 7
MANIFEST = "manifest.json"
# Of models/inputs.Catalog, in its order.
CATALOG_FIELDS = (
    "category", "leaf", "brand", "first_sold", "available",
    "price", "mean_line_spend", "orders_28d", "sales_7d", "buyers", "vectors",
)  # fmt: skip
SNAPSHOT_FIELDS = (
    "price",
    "mean_line_spend",
    "orders_28d",
    "sales_7d",
    "buyers",
)  # of models/inputs.Catalog, one snapshot
MODULES = ("query_tower", "candidates", "ranker")
# Beside those of the index.
REQUIRED_FILES = (*(f"{name}.ts" for name in MODULES), "items.arrow", "item_rows.arrow", "golden.arrow")
# Of items.arrow, as the modules and the slate read them; the others are strings.
NUMERIC_DTYPES = {
    **dict.fromkeys(("category_codes", "leaf", "brand_code", "first_sold"), np.int64),
    "available": np.uint8,  # 0 or 1: Arrow's own booleans are bits
    **dict.fromkeys((*SNAPSHOT_FIELDS, "margin"), np.float32),
    "vector": np.uint8,
    **dict.fromkeys(("fallback_rank", "popular", "popular_by_leaf"), np.int32),
}
CHECKSUM_PLACEHOLDER = "0" * 64  # stands in the manifest while its own checksum is computed


class BundleError(RuntimeError):
    """A bundle that must not serve. The message names the file, the reason and the remedy."""

    def __init__(
        self, file: Path | str, reason: str, remedy: str = "export again, or copy the bundle again"
    ) -> None:
        super().__init__(f"{file}: {reason}. To do: {remedy}.")


class Candidates(NamedTuple):
    """What `candidates` gives of B checkouts: the fields of models/inputs.Candidates."""

    offsets: Tensor  # [B+1] int64
    item: Tensor  # [ΣC] int64, rows
    source: Tensor  # [ΣC] int64, bits of serving/fill.SOURCES
    score: Tensor  # [ΣC] float32, inner product of query and item vector
    copurchase_score: Tensor  # [ΣC] float32
    ease_score: Tensor  # [ΣC] float32


@dataclass(frozen=True)
class Bundle:
    """What a recommender needs. Rows are item rows; row 0 is the unknown item.

    All that has a row per item lies in mapped files (serving/storage/mapped_table.py): nothing of it is
    copied to load it.
    """

    folder: Path
    version: str
    manifest: dict[str, Any]
    query_tower: Any  # (query, vectors) → [B, D]
    candidates: Any  # (query, query vector, ANN rows [B, K], catalog) → the fields of Found
    ranker: Any  # (query, query vector, candidates, catalog) → three tensors [ΣC]
    index: ItemIndex
    catalog: tuple[Tensor, ...]  # in the order of models/inputs.Catalog, one snapshot
    item_id: pa.StringArray  # [N+1]
    item_rows: ItemRowMap  # item id → row, 0 for unknown
    title: pa.StringArray  # [N+1]
    category: pa.StringArray  # [N+1]
    price: NDArray  # [N+1] float32
    margin: NDArray  # [N+1] float32, share of the price that the shop keeps, NaN where unknown
    available: NDArray  # [N+1] bool
    leaf: NDArray  # [N+1] int64
    fallback_rank: NDArray  # [N+1] int32, -1 where not available
    items_by_popularity: NDArray  # [n] int32, the available items by fallback rank
    items_by_leaf: NDArray  # [n] int32, the same by leaf category, and within one by fallback rank


def open_bundle(path: str | Path) -> Bundle:
    """Load a version folder, or the version that `current` names in a bundle root.

    Raises BundleError for a missing or changed file, an unknown format, or parts that do not fit together.
    """
    folder = version_folder(path)
    manifest = read_manifest(folder)
    parts = index_files(folder, manifest)
    for name in {**dict.fromkeys((*REQUIRED_FILES, *parts)), **manifest["files"]}:
        verify_checksum(folder / name, manifest["files"].get(name))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        query_tower, candidates, ranker = (
            _read(folder / f"{name}.ts", lambda file: torch.jit.load(file).eval()) for name in MODULES
        )
    shards = {name: _read(folder / name, read_index) for name in parts}
    items = _read(folder / "items.arrow", MappedTable)
    _check_dims(folder, manifest, shards, items.batch)
    item_id, title, category = _read(
        folder / "items.arrow", lambda _: [items.text(name) for name in ("item_id", "title", "category")]
    )
    numbers: dict[str, NDArray] = _read(
        folder / "items.arrow",
        lambda _: {name: items.numbers(name, NUMERIC_DTYPES[name]) for name in NUMERIC_DTYPES},
    )
    available = numbers["available"].view(np.bool_)
    shown = int(np.count_nonzero(available))
    return Bundle(
        folder=folder,
        version=manifest["version"],
        manifest=manifest,
        query_tower=query_tower,
        candidates=candidates,
        ranker=ranker,
        index=_build_item_index(folder, manifest, list(shards.values()), numbers["vector"]),
        catalog=(
            *(torch.from_numpy(numbers[name]) for name in ("category_codes", "leaf", "brand_code")),
            torch.from_numpy(numbers["first_sold"]),
            torch.from_numpy(available),
            *(torch.from_numpy(numbers[name]).unsqueeze(0) for name in SNAPSHOT_FIELDS),
            torch.from_numpy(numbers["vector"]),
        ),
        item_id=item_id,
        item_rows=_read(folder / "item_rows.arrow", lambda file: ItemRowMap(item_id, _slots(file))),
        title=title,
        category=category,
        price=numbers["price"],
        margin=numbers["margin"],
        available=available,
        leaf=numbers["leaf"],
        fallback_rank=numbers["fallback_rank"],
        items_by_popularity=numbers["popular"][:shown],
        items_by_leaf=numbers["popular_by_leaf"][:shown],
    )


def version_folder(path: str | Path) -> Path:
    """The version folder that `path` is or, in a bundle root, that its `current` link names."""
    path = Path(path)
    if (path / "current").is_symlink():
        folder = (path / "current").resolve()  # a later change of the link does not mix two versions
        if not folder.is_dir():
            raise BundleError(path / "current", "it points at a folder that is gone", "export again")
        return folder
    if not (path / MANIFEST).is_file():
        raise BundleError(
            path, f"no bundle here ({MANIFEST} and a `current` link are missing)", "python export.py"
        )
    return path.resolve()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, its checksum and format checked."""
    raw = (folder / MANIFEST).read_bytes()
    try:
        manifest = json.loads(raw)
        checksum = manifest["checksum"]
        found = manifest_checksum(raw.replace(checksum.encode(), CHECKSUM_PLACEHOLDER.encode()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(folder / MANIFEST, f"not a manifest ({type(error).__name__}: {error})") from error
    if manifest.get("format") != FORMAT_VERSION:
        raise BundleError(
            folder / MANIFEST,
            f"format {manifest.get('format')!r}, this serving reads format {FORMAT_VERSION}",
            "export with the same release of Sextet that serves",
        )
    if found != checksum:
        raise BundleError(folder / MANIFEST, "its content does not match its checksum")
    return manifest


def index_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The names of the index's shards. Raises BundleError for a manifest that names none in its folder."""
    names = manifest["index"].get("files")
    if not isinstance(names, list) or not names or not all(name in manifest["files"] for name in names):
        raise BundleError(folder / MANIFEST, f"the files of the index are {names!r}", "export again")
    return names


def manifest_checksum(raw: bytes) -> str:
    """SHA-256 of a manifest's bytes, in which NO_CHECKSUM stands for the checksum."""
    return hashlib.sha256(raw).hexdigest()


def sha256(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_arrow(file: str) -> pa.Table:
    """An Arrow IPC file, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(file)).read_all()


def verify_checksum(file: Path, expected: str | None) -> None:
    if not file.is_file():
        raise BundleError(file, "the file is missing")
    if expected is None:
        raise BundleError(file, "the manifest does not list it")
    if sha256(file) != expected:
        raise BundleError(file, "its bytes differ from what was exported (SHA-256)")


def _read(file: Path, reader: Any) -> Any:
    try:
        return reader(str(file))
    except (RuntimeError, ValueError, OSError, pa.ArrowException) as error:
        raise BundleError(file, f"cannot be read: {str(error).strip().splitlines()[-1]}") from error


def _check_dims(
    folder: Path, manifest: dict[str, Any], shards: dict[str, faiss.Index], items: pa.RecordBatch
) -> None:
    dim, rows = manifest["dims"]["vector"], manifest["dims"]["items"]
    if manifest["metric"] != "inner_product":
        raise BundleError(folder / MANIFEST, f"the metric is {manifest['metric']!r}", "export again")
    for name, index in shards.items():
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise BundleError(folder / name, "its metric is not the inner product", "export again")
        if index.d != dim:
            raise BundleError(
                folder / name, f"vectors of {index.d} dimensions, the manifest says {dim}", "export again"
            )
    if items.num_rows != rows:
        raise BundleError(
            folder / "items.arrow", f"{items.num_rows} rows, the manifest says {rows}", "export again"
        )
    width = items.schema.field("vector").type.list_size
    if width != dim + 8:
        raise BundleError(
            folder / "items.arrow", f"vectors of {width - 8} dimensions, the index has {dim}", "export again"
        )
    held = sum(index.ntotal for index in shards.values())
    if held > rows - 1:
        raise BundleError(
            folder / next(iter(shards)), f"{held} vectors in the index, {rows - 1} items", "export again"
        )


def _build_item_index(
    folder: Path, manifest: dict[str, Any], shards: list[faiss.Index], packed: NDArray
) -> ItemIndex:
    try:
        return ItemIndex(shards, packed, SearchParams.from_json(manifest["index"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(folder / MANIFEST, f"how to search the index: {error!r}", "export again") from error


def _slots(file: str) -> NDArray:
    return MappedTable(file).numeric_column("row", np.int32)
