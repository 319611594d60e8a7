"""The files of a bundle, written to a temporary folder and published in one step."""

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256 as new_sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from data.feature_schema import FeatureSchema
from exporting.exportable_run import ExportableRun, ExportError, read_calibration, slate_items
from exporting.slate_objective import manifest_entries, named_columns
from models.candidates.seeds import BasketItemSeeds
from serving.storage.bundle import CHECKSUM_PLACEHOLDER, MANIFEST, manifest_checksum, sha256
from serving.storage.bundle_mirror import is_mirror, push_version
from serving.storage.formats import (
    COPURCHASE_FILE,
    FORMAT_VERSION,
    NUMERIC_DTYPES,
    OBJECTIVE_PREFIX,
    OPTIONAL_DTYPES,
    PRODUCT_DTYPE,
)
from serving.storage.item_ids import build_slots
from serving.storage.versions import set_current_version
from serving.stores.arrow import STORE_SCHEMA
from training.objective import CheckedObjective
from training.source_settings import scored_source_names, source_limits, source_names
from training.tracking import git_commit, read_run_id

RECORDED_LIBRARIES = (
    "torch",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "pyarrow",
    "torchrec",
    "fbgemm_gpu-cpu",
    "fbgemm_gpu",
)


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """Yield a temporary folder in `root`; it is removed at the end unless it was published."""
    folder = root / f".partial-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_arrow(table: pa.Table, file: Path) -> None:
    """Write an Arrow IPC file with a record batch per chunk. It is uncompressed, so that it can be mapped."""
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def write_items(run: ExportableRun, objective: CheckedObjective, folder: Path) -> None:
    """Write `items.arrow` and `item_rows.arrow`, the hash table item id → row (serving/storage/item_ids.py).

    Raises ExportError for an id that two items have.
    """
    items = items_table(run)
    for name in named_columns(objective):
        values = objective.columns[name][0].astype(np.float32)
        items = items.append_column(f"{OBJECTIVE_PREFIX}{name}", _to_arrow(values))
    try:
        slots = build_slots(items["item_id"].combine_chunks())
    except ValueError as error:
        raise ExportError(f"{error}: give every item an id of its own and prepare again") from error
    write_arrow(items, folder / "items.arrow")
    write_arrow(pa.table({"row": slots}), folder / "item_rows.arrow")


def write_copurchase(run: ExportableRun, folder: Path) -> None:
    """Write `copurchase.arrow`: for each item, the items that are bought with it and their scores.

    The lists are those of the source `co_purchase`, which `candidates.ts` also holds. No file is written for
    a run without that source, or with a source of that name that does not start from the basket.
    """
    sources, names = run.sources, source_names(run.cfg)
    if "co_purchase" not in names:
        return
    bit = 1 << names.index("co_purchase")
    for seeds in sources.list_seeds:
        if type(seeds) is BasketItemSeeds and int(sources.source_bits[seeds.position]) == bit:
            rows = slice(seeds.first_row, seeds.first_row + sources.n_items + 1)
            offsets = sources.list_offsets[rows].numpy()
            values = slice(offsets[0], offsets[-1])
            starts = pa.array((offsets - offsets[0]).astype(np.int32))
            columns = {
                "item": sources.list_items[values].numpy().astype(np.int32),
                "score": sources.list_scores[values].numpy().astype(np.float32),
            }
            table = {name: pa.ListArray.from_arrays(starts, pa.array(c)) for name, c in columns.items()}
            write_arrow(pa.table(table).combine_chunks(), folder / COPURCHASE_FILE)


def items_table(run: ExportableRun) -> pa.Table:
    """The table of `items.arrow`: one row per item row, with prices and sales of the latest snapshot.

    Row 0 is the unknown item. Serving reads the columns in place (serving.storage.formats.NUMERIC_DTYPES). No
    column has nulls.
    """
    raw, catalog = run.items, run.catalog
    available, leaf = catalog.available.numpy(), catalog.leaf.numpy()
    popular = np.argsort(-catalog.orders_28d[0].numpy(), kind="stable")
    popular = popular[available[popular]]
    rank = np.full(len(available), -1)
    rank[popular] = np.arange(len(popular))
    numbers = {
        "price": catalog.price[0].numpy(),
        "mean_line_spend": catalog.mean_line_spend[0].numpy(),
        "margin": raw["margin"].cast(pa.float32()).to_numpy(),  # NaN for null
        "available": available,
        "first_sold": catalog.first_sold.numpy(),
        "orders_28d": catalog.orders_28d[0].numpy(),
        "sales_7d": catalog.sales_7d[0].numpy(),
        "buyers": catalog.buyers[0].numpy(),
        "category_codes": catalog.category.numpy(),
        "leaf": leaf,
        "brand_code": catalog.brand.numpy(),
        "vector": catalog.vectors.numpy(),
        "fallback_rank": rank,
        "popular": _pad_zeros(popular, len(rank)),
        "product": slate_items(run).product,
        "popular_by_leaf": _pad_zeros(popular[np.argsort(leaf[popular], kind="stable")], len(rank)),
    }
    optional = {"attribute_codes": catalog.attributes.numpy(), "content": catalog.content.numpy()}
    numbers |= {name: values for name, values in optional.items() if values.shape[1] > 0}
    text_names = ("item_id", "title", "category", "brand")
    text_columns = {name: raw[name].cast(pa.string()).fill_null("") for name in text_names}
    dtypes = NUMERIC_DTYPES | OPTIONAL_DTYPES | {"product": PRODUCT_DTYPE}
    number_columns = {name: _to_arrow(values.astype(dtypes[name])) for name, values in numbers.items()}
    return pa.table(text_columns | number_columns).combine_chunks()


def _pad_zeros(rows: np.ndarray, count: int) -> np.ndarray:
    """Item rows [n], padded with zeros to [count]."""
    return np.pad(rows, (0, count - len(rows)))


def _to_arrow(values: np.ndarray) -> pa.Array:
    flat = pa.array(values.reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def write_store(prepared: Path, schema: FeatureSchema, file: Path) -> int:
    """Write `store.arrow` (serving/stores/arrow.py) from the prepared folder; returns the number of users."""
    source = pq.ParquetFile(prepared / "user_histories.parquet")
    names = [attribute.name for attribute in schema.profile]
    users = source.read(columns=["user_id"])["user_id"]
    is_sorted = len(users) < 2 or bool(pc.all(pc.less(users[:-1], users[1:])).as_py())
    batches = source.iter_batches(8192) if is_sorted else iter(source.read().sort_by("user_id").to_batches())
    writer: pa.ipc.RecordBatchFileWriter | None = None
    with pa.OSFile(str(file), "wb") as sink:
        for batch in batches:
            store_batch = _store_batch(batch, names)
            writer = writer or pa.ipc.new_file(sink, store_batch.schema)
            writer.write_batch(store_batch)
        if writer is None:  # no users
            empty = pa.RecordBatch.from_pylist([], schema=source.schema_arrow)
            writer = pa.ipc.new_file(sink, _store_batch(empty, names).schema)
        writer.close()
    return len(users)


def _store_batch(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    offsets = pa.array(np.arange(batch.num_rows + 1, dtype=np.int32) * len(names))
    values = batch["profile_values"].flatten().cast(pa.string())
    profile = pa.MapArray.from_arrays(offsets, pa.array(names * batch.num_rows, pa.string()), values)
    columns = [profile if name == "profile" else batch[name] for name in STORE_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, names=list(STORE_SCHEMA))


def build_manifest(
    run: ExportableRun,
    folder: Path,
    objective: CheckedObjective,
    index: dict[str, Any],
    export: dict[str, Any],
) -> dict[str, Any]:
    """The manifest of a bundle. All other files of the bundle must already be in `folder`."""
    hashes = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    meta, schema = run.prepared.meta, run.schema.to_json()
    now = datetime.now(UTC)
    digest = new_sha256("".join(hashes.values()).encode()).hexdigest()[:8]
    return {
        "format": FORMAT_VERSION,
        "version": f"{now:%Y%m%dT%H%M%SZ}-{digest}",
        "checksum": CHECKSUM_PLACEHOLDER,
        "created": now.isoformat(timespec="seconds"),
        "files": hashes,
        "bytes": {name: (folder / name).stat().st_size for name in hashes},
        "metric": "inner_product",
        "dims": {
            "vector": run.catalog.vectors.shape[1] - 8,
            "sales": run.tower.n_sales,  # of the last columns of the vectors
            "items": run.catalog.leaf.numel(),
        },
        **manifest_entries(run, objective),
        "candidates": source_limits(run.cfg),
        "sources": source_names(run.cfg),  # bit i of a candidate's source mask: the i-th
        "scored": scored_source_names(run.cfg),  # column of a candidate's list scores: the k-th
        "index": index,
        # The part of the schema that serving reads; the manifest is small, because serving parses it live.
        "features": {name: schema[name] for name in ("version", "max_history", "context", "profile")},
        "data": {
            "window": meta["window"],
            "snapshot": meta["snapshot_dates"][-1],
            "horizon": meta["horizon"],
            "click_label": meta["click"],
            "fingerprint": meta["fingerprint"],
            "prepared": run.prepared.folder.name,
        },
        "metrics": {
            "ranker": run.run_manifest["metrics"],
            "retrieval": run.retrieval_manifest["metrics"],
            "candidate_recall": run.run_manifest["recall"],
        },
        "calibration": read_calibration(run.folder),
        "recalibration": run.recalibration,
        "run": {
            "folder": run.folder.name,
            "mlflow_run_id": read_run_id(run.folder) or "",
            "config": OmegaConf.to_container(run.cfg, resolve=True),
        },
        "export": {**export, "git_commit": git_commit()},
        "versions": {"python": platform.python_version(), **_library_versions()},
    }


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in RECORDED_LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def write_bundle_manifest(content: dict[str, Any], folder: Path) -> None:
    """Write `manifest.json` with its checksum."""
    raw = json.dumps(
        {**content, "checksum": CHECKSUM_PLACEHOLDER}, indent=1, sort_keys=True, ensure_ascii=False
    )
    checksum = manifest_checksum(raw.encode())
    (folder / MANIFEST).write_text(raw.replace(CHECKSUM_PLACEHOLDER, checksum))


def publish(folder: Path, root: Path, version: str) -> Path:
    """Rename a finished folder to its version and point `current` at it; returns the new folder.

    For a bundle root at a URI, both steps happen remotely first.
    """
    target = root / version
    folder.rename(target)
    if is_mirror(root):
        push_version(root, version)
    set_current_version(root, version)
    return target
