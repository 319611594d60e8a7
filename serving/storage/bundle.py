"""Loads a bundle folder: verified modules, index and catalog.

The only file of `serving` that calls `torch.jit`.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import faiss
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from .formats import (
    EARLIER_VERSIONS,
    FORMAT_VERSION,
    OBJECTIVE_PREFIX,
    STRING_COLUMNS,
    Catalog,
    TaskOutput,
    adapt_modules,
    build_catalog,
    manifest_tasks,
    objective_columns,
    read_numeric_columns,
)
from .item_ids import ItemRowMap
from .mapped_table import MappedTable
from .paths import CURRENT
from .signatures import SIGNATURE, check_signature, read_trusted_keys
from .vector_index import ItemIndex, SearchParams, read_index

MANIFEST = "manifest.json"
MODULES = ("query_tower", "candidates", "ranker")
# Besides the files of the index.
REQUIRED_FILES = (*(f"{name}.ts" for name in MODULES), "items.arrow", "item_rows.arrow", "golden.arrow")
CHECKSUM_PLACEHOLDER = "0" * 64  # stands in the manifest while its own checksum is computed
untyped_jit: Any = torch.jit  # its functions have no annotations

T = TypeVar("T")


class BundleError(RuntimeError):
    """A bundle that must not serve. The message names the file, the reason and the remedy."""

    def __init__(
        self, file: Path | str, reason: str, remedy: str = "export again, or copy the bundle again"
    ) -> None:
        super().__init__(f"{file}: {reason}. To do: {remedy}.")


class Candidates(NamedTuple):
    """The output of `candidates` for B checkouts. The fields are those of models.schema.Candidates."""

    offsets: Tensor  # [B+1] int64
    item: Tensor  # [ΣC] int64, rows
    source_mask: Tensor  # [ΣC] int64, bit i: the manifest's i-th source
    score: Tensor  # [ΣC] float32, inner product of query and item vector
    list_scores: Tensor  # [ΣC, K] float32, by the manifest's K `scored` sources


@dataclass(frozen=True)
class Bundle:
    """The loaded parts of a bundle.

    Rows are item rows; row 0 is the unknown item. All data with a row per item stays in mapped files
    (serving/storage/mapped_table.py); loading does not copy it.
    """

    folder: Path
    version: str
    manifest: dict[str, Any]
    query_tower: Callable[..., Tensor]  # (query, vectors) → [B, D]
    candidates: Callable[
        ..., tuple[Tensor, ...]
    ]  # (query, query vector, ANN rows [B, K], catalog) → Candidates
    ranker: Callable[..., Tensor]  # (query, query vector, candidates, catalog) → [T, ΣC], a row per task
    tasks: tuple[TaskOutput, ...]  # T
    index: ItemIndex
    catalog: Catalog
    item_id: pa.StringArray  # [N+1]
    item_rows: ItemRowMap  # item id → row, 0 for unknown
    title: pa.StringArray  # [N+1]
    category: pa.StringArray  # [N+1]
    price: NDArray[np.float32]  # [N+1]
    margin: NDArray[np.float32]  # [N+1], share of the price that the shop keeps, NaN where unknown
    item_columns: Mapping[str, NDArray[np.float32]]  # each [N+1], those that the objective reads
    available: NDArray[np.bool_]  # [N+1]
    leaf: NDArray[np.int64]  # [N+1]
    product: NDArray[np.int32]  # [N+1], equal for items that differ in their pack alone; 0: no other pack
    fallback_rank: NDArray[np.int32]  # [N+1], -1 where not available
    items_by_popularity: NDArray[np.int32]  # [n], the available items by fallback rank
    items_by_leaf: NDArray[np.int32]  # [n], the same by leaf category, and within one by fallback rank


def open_bundle(path: str | Path, trust: Sequence[Path] = ()) -> Bundle:
    """Load a version folder, or the version that `current` names in a bundle root.

    Raises BundleError for a missing or changed file, an unknown format, or files that do not fit together,
    and the errors of `read_manifest`.
    """
    folder = version_folder(path)
    manifest = read_manifest(folder, trust)
    shard_names = index_files(folder, manifest)
    for name in dict.fromkeys((*REQUIRED_FILES, *shard_names, *manifest["files"])):
        verify_checksum(folder / name, manifest["files"].get(name))
    modules = {name: _read(folder / f"{name}.ts", _load_module) for name in MODULES}
    shards = {name: _read(folder / name, read_index) for name in shard_names}
    items_file = folder / "items.arrow"
    items = _read(items_file, MappedTable)
    _check_dims(folder, manifest, shards, items.batch)
    strings = _read(items_file, lambda _: {name: items.string_column(name) for name in STRING_COLUMNS})
    numbers = _read(items_file, lambda _: read_numeric_columns(items, manifest["format"]))
    n_available = int(np.count_nonzero(numbers["available"]))
    return Bundle(
        **adapt_modules(modules, manifest["format"]),
        **strings,
        folder=folder,
        version=manifest["version"],
        manifest=manifest,
        index=_build_item_index(folder, manifest, list(shards.values()), numbers["vector"]),
        tasks=_read(folder / MANIFEST, lambda _: manifest_tasks(manifest)),
        catalog=build_catalog(numbers),
        item_rows=_read(
            folder / "item_rows.arrow", lambda file: ItemRowMap(strings["item_id"], _read_slots(file))
        ),
        price=numbers["price"],
        margin=numbers["margin"],
        item_columns=_read(items_file, lambda _: _objective_columns(items, manifest)),
        available=numbers["available"],
        leaf=numbers["leaf"],
        product=numbers["product"],
        fallback_rank=numbers["fallback_rank"],
        items_by_popularity=numbers["popular"][:n_available],
        items_by_leaf=numbers["popular_by_leaf"][:n_available],
    )


def version_folder(path: str | Path) -> Path:
    """The version folder: `path` itself, or the target of `current` in a bundle root."""
    path = Path(path)
    if (path / CURRENT).is_symlink():
        folder = (path / CURRENT).resolve()  # a later change of the link does not mix two versions
        if not folder.is_dir():
            raise BundleError(path / CURRENT, "the link points to a folder that is missing", "export again")
        return folder
    if not (path / MANIFEST).is_file():
        raise BundleError(
            path, f"no bundle here ({MANIFEST} and a `{CURRENT}` link are missing)", "python export.py"
        )
    return path.resolve()


def read_manifest(folder: Path, trust: Sequence[Path] = ()) -> dict[str, Any]:
    """The manifest.

    Args:
        trust: public keys (signatures.py), one of which must have signed the manifest; none for no check.

    Raises BundleError for a checksum that differs, a format that serving cannot read, files outside the
    folder and a missing signature. Raises the errors of `read_trusted_keys`.
    """
    raw = (folder / MANIFEST).read_bytes()
    if keys := read_trusted_keys(trust):
        try:
            check_signature(raw, folder / SIGNATURE, keys)
        except ValueError as error:
            raise BundleError(
                folder, str(error), "export with sign=KEY, or --trust the public key of who exported it"
            ) from error
    try:
        manifest: dict[str, Any] = json.loads(raw)
        expected = manifest["checksum"]
        checksum = manifest_checksum(raw.replace(expected.encode(), CHECKSUM_PLACEHOLDER.encode()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(folder / MANIFEST, f"not a manifest ({type(error).__name__}: {error})") from error
    readable = sorted((FORMAT_VERSION, *EARLIER_VERSIONS))
    if manifest.get("format") not in readable:
        raise BundleError(
            folder / MANIFEST,
            f"format {manifest.get('format')!r}, this serving reads formats {', '.join(map(str, readable))}",
            "export with the release of Sextet that serves",
        )
    if checksum != expected:
        raise BundleError(folder / MANIFEST, "its content does not match its checksum")
    _check_file_names(folder, manifest)
    return manifest


def _check_file_names(folder: Path, manifest: dict[str, Any]) -> None:
    """Raises BundleError for a manifest that names a file outside its folder."""
    names = manifest.get("files")
    if not isinstance(names, dict):
        raise BundleError(folder / MANIFEST, "the manifest lists no files")
    for name in names:
        is_name = not {"/", "\\", "\0"} & {*name} and name not in ("", ".", "..")
        if not is_name or (folder / name).resolve().parent != folder.resolve():
            raise BundleError(folder / MANIFEST, f"the manifest names {name!r}, which is not in its folder")


def index_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The file names of the index's shards. Raises BundleError if the manifest names none in its folder."""
    names = manifest["index"].get("files")
    if not isinstance(names, list) or not names or not all(name in manifest["files"] for name in names):
        raise BundleError(folder / MANIFEST, f"the files of the index are {names!r}", "export again")
    return names


def manifest_checksum(raw: bytes) -> str:
    """SHA-256 of a manifest's bytes, with CHECKSUM_PLACEHOLDER in place of the checksum."""
    return hashlib.sha256(raw).hexdigest()


def sha256(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_arrow(file: str) -> pa.Table:
    """An Arrow IPC file, memory-mapped."""
    return pa.ipc.open_file(pa.memory_map(file)).read_all()


def verify_checksum(file: Path, expected: str | None) -> None:
    """Raises BundleError unless the file exists and has the SHA-256 of the manifest."""
    if not file.is_file():
        raise BundleError(file, "the file is missing")
    if expected is None:
        raise BundleError(file, "the manifest does not list it")
    if sha256(file) != expected:
        raise BundleError(file, "its bytes differ from what was exported (SHA-256)")


def _read(file: Path, reader: Callable[[str], T]) -> T:
    """The result of `reader` for the file; its errors become BundleError."""
    try:
        return reader(str(file))
    except (RuntimeError, ValueError, OSError, pa.ArrowException) as error:
        raise BundleError(file, f"cannot be read: {str(error).strip().splitlines()[-1]}") from error


def open_module(file: Path) -> Callable[..., Any]:
    """A TorchScript module of a bundle. Raises BundleError for any other file."""
    module: Callable[..., Any] = _read(file, _load_module)
    return module


def _load_module(file: str) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        return untyped_jit.load(file).eval()


def _objective_columns(items: MappedTable, manifest: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    return {
        name: items.numeric_column(f"{OBJECTIVE_PREFIX}{name}", np.float32)
        for name in objective_columns(manifest)
    }


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
    n_vectors = sum(index.ntotal for index in shards.values())
    if n_vectors > rows - 1:
        raise BundleError(
            folder / next(iter(shards)), f"{n_vectors} vectors in the index, {rows - 1} items", "export again"
        )


def _build_item_index(
    folder: Path, manifest: dict[str, Any], shards: list[faiss.Index], packed_vectors: NDArray[np.uint8]
) -> ItemIndex:
    try:
        return ItemIndex(shards, packed_vectors, SearchParams.from_json(manifest["index"]))
    except (KeyError, TypeError, ValueError) as error:
        problem = f'the entry "index", which describes how to search, cannot be read: {error!r}'
        raise BundleError(folder / MANIFEST, problem, "export again") from error


def _read_slots(file: str) -> NDArray[np.int32]:
    return MappedTable(file).numeric_column("row", np.int32)
