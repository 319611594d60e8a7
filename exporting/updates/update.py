"""Publishes a bundle with changed items as a new version, without training or a new index.

    bundle/current ─ its run, its item updates ─╮
    changes.parquet ────────────────────────────┴▶ updates ─▶ items ─▶ index: out, in ─▶ bundle/<new version>

`changes.parquet` in a bundle holds every item update since the training, so a version depends only on its run
and its updates. Readers of the old version are not disturbed.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from data import item_changes
from data.errors import DataError
from data.feature_schema import FeatureSchema
from exporting.assemble import BuiltIndex, assemble_bundle, timed_step
from exporting.export import (
    ITEM_UPDATES_FILE,
    available_item_rows,
    build_tuned_index,
    validation_query_vectors,
)
from exporting.exportable_run import (
    ExportableRun,
    ExportError,
    find_run,
    load_exportable_run,
    load_item_tower,
)
from exporting.index.build import (
    add_vectors,
    bytes_per_vector,
    exact_search,
    imbalance_factor,
    int8_vector_reader,
    measure_search,
    read_shards,
)
from exporting.item_updates import update_run, updated_item_rows
from exporting.live_updates import read_live_updates
from exporting.signing import check_key, is_signed, sign_version
from serving.live_items.changes import UNTIL, merged_until
from serving.storage.bundle import (
    BundleError,
    index_files,
    read_arrow,
    read_manifest,
    verify_checksum,
    version_folder,
)
from serving.storage.vector_index import ItemIndex, SearchParams
from training.stage_folders import lock_folder

APPEND_ONLY_FAMILIES = ("hnsw_sq8",)  # families from which faiss cannot remove items


class DegradationLimits(NamedTuple):
    """Limits to what an index may lose by updates. Beyond them a rebuild is advised."""

    max_recall_loss: float = 0.01  # of recall@300
    max_imbalance_ratio: float = 1.5  # times the imbalance of its lists
    max_growth_ratio: float = 2.0  # times the vectors, for which it then has too few lists


DEFAULT_LIMITS = DegradationLimits()


class PublishedVersion(NamedTuple):
    """The version of a bundle that `current` names."""

    folder: Path
    manifest: dict[str, Any]
    updates: pa.Table  # its item updates since the training

    @property
    def live_until(self) -> float | None:
        """The time at which live changes were read; None for a version without live changes."""
        until: float | None = self.manifest["export"].get(UNTIL)
        return until


class RunLocation(NamedTuple):
    """The location of a bundle's training run."""

    run: str | None = None  # a folder or an MLflow run id, if it was moved
    tracking_uri: str = ""  # of MLflow


RECORDED_RUN = RunLocation()  # the folder that the manifest names


class UpdateRecord(NamedTuple):
    """The record of item updates in a version."""

    updates: pa.Table  # all since the training
    live_until: float | None  # when the live ones were read; None without any

    def manifest_entry(self) -> dict[str, float]:
        return {} if self.live_until is None else {UNTIL: self.live_until}


class IndexDelta(NamedTuple):
    """The item rows that leave and that enter the index, [n] int64 each.

    A row with a changed vector does both.
    """

    removed_rows: NDArray
    added_rows: NDArray


def update_bundle(
    root: Path,
    items: Path | None,
    run: RunLocation = RECORDED_RUN,
    rebuild: bool = False,
    limits: DegradationLimits = DEFAULT_LIMITS,
    sign: Path | None = None,
    live: str | None = None,
) -> Path:
    """Publish the bundle in `root` with changed items; returns the folder of the new version.

    Raises ExportError if the bundle, the run or the file cannot be used, and if another version is published
    in the meantime.

    Args:
        items: file of the changed items; None only with `rebuild`.
        run: where the training run is.
        rebuild: build and tune the index anew.
        limits: losses of the index beyond which a warning advises a rebuild.
        sign: private key that signs the new version.
        live: URI of a live state. Its changes of items are applied before those of `items`.
    """
    check_key(sign)
    if items is None and live is None and not rebuild:
        raise ExportError("nothing to do: give the changed items (--items FILE or --live URI), or --rebuild")
    try:
        current = _read_current_version(root)
        record = _merge_updates(current, items, live)
    except (BundleError, DataError) as error:
        raise ExportError(str(error)) from error
    if current.folder == root.resolve():
        raise ExportError(
            f"{root} is one version: give the folder that holds `current`, {current.folder.parent}"
        )
    updates = record.updates
    if updates.equals(current.updates) and not rebuild:
        print(f"bundle: {current.folder} has these items already")
        return current.folder
    if not is_signed(current.folder, sign):
        raise ExportError(
            f"{current.folder} is not signed by this key: export it again, python export.py sign={sign}"
        )
    settings = _export_settings(current)
    with timed_step("run"):
        trained = load_exportable_run(find_training_run(current.manifest, *run))
        try:
            updated = update_run(trained, load_item_tower(trained), updates)
        except DataError as error:
            raise ExportError(str(error)) from error
        delta = index_delta(current.folder, updated, updated_item_rows(updated.items, updates))
    build_index = _index_builder(current, updated, delta, settings.index, rebuild)
    version = _publish_update(root, current, updated, record, settings, build_index, sign)
    print(_update_summary(current, delta, len(updates)))
    if degradation := index_degradation(read_manifest(version)["index"], limits):
        print(f"warning: {degradation}: rebuild the index, python export.py update --bundle {root} --rebuild")
    return version


def _merge_updates(current: PublishedVersion, items: Path | None, live: str | None) -> UpdateRecord:
    """Joins the updates of a version, a live state and a file, in this order."""
    schema = FeatureSchema.load(current.folder)
    new_updates = item_changes.read_item_updates(items, schema) if items else _no_updates()
    updates, until = current.updates, current.live_until
    if live is not None:
        known_ids = set(read_arrow(str(current.folder / "items.arrow"))["item_id"].to_pylist())
        since = read_live_updates(live, schema, known_ids, merged_until(current.manifest))
        updates, until = item_changes.merge_item_updates(updates, since.updates), since.until
    return UpdateRecord(item_changes.merge_item_updates(updates, new_updates), until)


def _publish_update(
    root: Path,
    current: PublishedVersion,
    updated: ExportableRun,
    record: UpdateRecord,
    settings: DictConfig,
    build_index: Callable[[Path], BuiltIndex],
    sign: Path | None,
) -> Path:
    """Assemble the bundle of `updated` with its updates; returns the folder of the new version.

    Raises ExportError if `current` moved in the meantime.
    """

    def write_updates_and_index(folder: Path) -> BuiltIndex:
        pq.write_table(record.updates, folder / ITEM_UPDATES_FILE)
        return build_index(folder)

    entries = {name: current.manifest["export"][name] for name in ("key", "settings")}
    entries |= {"updated": current.manifest["version"]} | record.manifest_entry()
    with ExitStack() as lock:

        def finish(folder: Path) -> None:
            lock.enter_context(lock_folder(root))  # until the version is published
            if version_folder(root) != current.folder:
                raise ExportError("another version was published in the meantime: run the update again")
            sign_version(folder, sign)

        try:
            return assemble_bundle(updated, settings, root, write_updates_and_index, entries, finish)
        except (BundleError, ValueError) as error:
            raise ExportError(str(error)) from error


def _update_summary(current: PublishedVersion, delta: IndexDelta, n_updates: int) -> str:
    return (
        f"{len(delta.added_rows):,} items entered the index and {len(delta.removed_rows):,} left it since "
        f"{current.manifest['version']}; {n_updates:,} changed since the training"
    )


def _read_current_version(root: Path) -> PublishedVersion:
    """The version that `current` names. Raises BundleError for a damaged one, which must not be published."""
    folder = version_folder(root)
    manifest = read_manifest(folder)
    for name, digest in manifest["files"].items():
        verify_checksum(folder / name, digest)
    file = folder / ITEM_UPDATES_FILE
    return PublishedVersion(folder, manifest, pq.read_table(file) if file.is_file() else _no_updates())


def _no_updates() -> pa.Table:
    return item_changes.ITEM_UPDATE_SCHEMA.empty_table()


def _export_settings(current: PublishedVersion) -> DictConfig:
    """The settings that the version was exported with. Raises ExportError for a manifest without them."""
    settings = OmegaConf.create(current.manifest["export"].get("settings", {}))
    if not {"index", "slate", "ranked", "verify"} <= settings.keys():
        raise ExportError(
            f"{current.folder} was exported by an older release: export again, python export.py"
        )
    return settings


def find_training_run(manifest: dict[str, Any], run: str | None, tracking_uri: str) -> Path:
    """The folder of the run that a bundle was made from. Raises ExportError for a different run."""
    name = manifest["run"]["folder"]
    if Path(name).name != name:
        raise ExportError(f"the bundle's manifest names the run {name!r}, which is not the name of a folder")
    folder = find_run(run or str(Path(manifest["run"]["config"]["paths"]["runs"]) / name), tracking_uri)
    if folder.name != name:
        raise ExportError(f"run={run} is {folder.name}, but the bundle was made from {name}: give that run")
    return folder


def index_delta(folder: Path, updated: ExportableRun, updated_rows: NDArray) -> IndexDelta:
    """Compares the index of the version in `folder` with that of `updated`.

    Raises ExportError if items outside `updated_rows` [n] differ.
    """
    items = read_arrow(str(folder / "items.arrow"))
    # Rows for new items are spare in every version.
    items = items.slice(0, items.num_rows - int(read_manifest(folder)["dims"].get("spare", 0)))
    count, vectors = items.num_rows, updated.catalog.vectors.numpy()
    ids = updated.items["item_id"].slice(0, count).cast(pa.string()).fill_null("")
    if count > len(vectors) or not ids.equals(items["item_id"]):
        raise ExportError(f"{folder} and its run have different items: export again, python export.py")
    old_vectors = items["vector"].combine_chunks().flatten().to_numpy().reshape(count, -1)
    differs = np.zeros(len(vectors), bool)
    differs[:count] = (old_vectors != vectors[:count]).any(1)
    if len(unexpected := np.setdiff1d(np.flatnonzero(differs), updated_rows)):
        raise ExportError(
            f"{folder}: the vectors of {len(unexpected):,} items without an update differ from the run's "
            f"(first: {ids[int(unexpected[0])].as_py()!r}), so the run was trained again. Export the run: "
            "python export.py"
        )
    was_available, is_available = np.zeros(len(vectors), bool), updated.catalog.available.numpy()
    was_available[:count] = items["available"].to_numpy()
    return IndexDelta(
        removed_rows=np.flatnonzero(was_available & (differs | ~is_available)),
        added_rows=np.flatnonzero(is_available & (differs | ~was_available)),
    )


def _index_builder(
    current: PublishedVersion, updated: ExportableRun, delta: IndexDelta, cfg: DictConfig, rebuild: bool
) -> Callable[[Path], BuiltIndex]:
    """The function that makes the new version's index in a folder: a build from scratch, or an update."""
    family = current.manifest["index"]["system"]
    if rebuild:
        return lambda folder: build_tuned_index(updated, cfg, folder)
    if family in APPEND_ONLY_FAMILIES:
        print(f"index: {family} is built anew, faiss cannot take items out of it", flush=True)
        family_cfg = cfg.copy()
        family_cfg.families = [family]
        return lambda folder: build_tuned_index(updated, family_cfg, folder)
    return lambda folder: update_index(current, updated, delta, cfg.queries, folder)


def update_index(
    current: PublishedVersion, updated: ExportableRun, delta: IndexDelta, n_queries: int, folder: Path
) -> BuiltIndex:
    """The index of the current version with the delta, written to `folder` and measured again."""
    packed, entry = updated.catalog.vectors.numpy(), current.manifest["index"]
    vectors = int8_vector_reader(packed)
    names = index_files(current.folder, current.manifest)
    for shard, name in enumerate(names):
        index: Any = faiss.read_index(str(current.folder / name))  # into memory: a mapped one is read-only
        index.remove_ids(delta.removed_rows)
        add_vectors(index, vectors, delta.added_rows[shard :: len(names)])
        faiss.write_index(index, str(folder / name))
    files, params = [folder / name for name in names], SearchParams.from_json(entry)
    ids, queries = available_item_rows(updated), validation_query_vectors(updated, n_queries)
    shards = read_shards(files)
    metrics = measure_search(ItemIndex(shards, packed, params), queries, exact_search(vectors, ids, queries))
    return BuiltIndex(
        files,
        params,
        metrics,
        entry
        | {name: round(value, 4) for name, value in metrics._asdict().items()}
        | {
            "vectors": len(ids),
            "imbalance": imbalance_factor(shards),
            "bytes_per_vector": round(bytes_per_vector(files, len(ids), packed, params.refine_factor), 1),
        },
    )


def index_degradation(index: dict[str, Any], limits: DegradationLimits) -> str:
    """Describes how far the `index` of a manifest has degraded since its build; "" within the limits."""
    built, losses = index["built"], []
    if index["recall"] < built["recall"] - limits.max_recall_loss:
        losses.append(f"recall@300 fell from {built['recall']} to {index['recall']}")
    if index["imbalance"] and index["imbalance"] > limits.max_imbalance_ratio * built["imbalance"]:
        losses.append(f"the imbalance of the lists rose from {built['imbalance']} to {index['imbalance']}")
    if index["vectors"] > limits.max_growth_ratio * built["vectors"]:
        losses.append(f"its vectors grew from {built['vectors']:,} to {index['vectors']:,}")
    return " and ".join(losses)
