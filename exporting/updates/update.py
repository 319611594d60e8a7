"""A published bundle with changed items, as a new version: no training, no new index.

    bundle/current ─ its run, its ledger ─╮
    changes.parquet ──────────────────────┴▶ ledger ─▶ items ─▶ index: out, in ─▶ bundle/<new version>

The ledger (changes.parquet in the bundle) holds every change since the training, so that a version follows
from its run and its ledger alone. Whoever reads the old version goes on reading it.
"""

from pathlib import Path
from typing import IO, Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from data import item_changes
from data.errors import DataError
from exporting.assemble import BuiltIndex, assemble_bundle, timed_step
from exporting.export import (
    ITEM_UPDATES_FILE,
    available_item_rows,
    build_tuned_index,
    validation_query_vectors,
)
from exporting.index.build import (
    add_vectors,
    exact_search,
    imbalance_factor,
    int8_vector_reader,
    measure_search,
    read_shards,
)
from exporting.opened_run import ExportError, TrainedRun, find_run, load_item_tower, load_trained_run
from exporting.updates.catalog import update_run, updated_item_rows
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

APPEND_ONLY_FAMILIES = ("hnsw_sq8",)  # families that cannot take items out


class DegradationLimits(NamedTuple):
    """What an index may lose by updates before a rebuild is advised."""

    max_recall_loss: float = 0.01  # of recall@300
    max_imbalance_ratio: float = 1.5  # times the imbalance of its lists
    max_growth_ratio: float = 2.0  # times the vectors, for which it has too few lists then


DEFAULT_LIMITS = DegradationLimits()


class IndexDelta(NamedTuple):
    """Item rows [n] int64 that leave the index and that enter it; one whose vector changed does both."""

    removed_rows: NDArray
    added_rows: NDArray


def update_bundle(
    root: Path,
    items: Path | None,
    run: str | None = None,
    tracking_uri: str = "",
    rebuild: bool = False,
    limits: DegradationLimits = DEFAULT_LIMITS,
) -> Path:
    """Publish the bundle in `root` with the changed `items` of a file; returns the folder of the version.

    `run` is its training run, as a folder or MLflow run id, if that is not where it was. With `rebuild` the
    index is built and its effort found anew; `items` may then be None. Raises ExportError where the bundle,
    the run or the file cannot be used, and where another version was published meanwhile.
    """
    if items is None and not rebuild:
        raise ExportError("nothing to do: give the changed items (--items FILE), or --rebuild")
    try:
        folder = version_folder(root)
        about = read_manifest(folder)
        for name, digest in about["files"].items():
            verify_checksum(folder / name, digest)  # what is damaged must not be published again
        before = read_item_updates(folder)
        ledger = item_changes.merge_item_updates(
            before,
            item_changes.read_item_updates(items) if items else item_changes.ITEM_UPDATE_SCHEMA.empty_table(),
        )
    except (BundleError, DataError) as error:
        raise ExportError(str(error)) from error
    if folder == root.resolve():
        raise ExportError(f"{root} is one version: give the folder that holds `current`, {folder.parent}")
    if ledger.equals(before) and not rebuild:
        print(f"bundle: {folder} has these items already")
        return folder
    settings = OmegaConf.create(about["export"].get("settings", {}))
    if not {"index", "slate", "ranked", "verify"} <= settings.keys():
        raise ExportError(f"{folder} was exported by an older release: export again, python export.py")
    with timed_step("run"):
        trained = load_trained_run(find_training_run(about, run, tracking_uri))
        after = update_run(trained, load_item_tower(trained), ledger)
        moved = index_delta(folder, after, updated_item_rows(after.items, ledger))

    def index_in(target: Path) -> BuiltIndex:
        pq.write_table(ledger, target / ITEM_UPDATES_FILE)
        if rebuild or about["index"]["system"] in APPEND_ONLY_FAMILIES:
            if not rebuild:
                settings.index.families = [about["index"]["system"]]
            return build_tuned_index(after, settings.index, target)
        return update_index(folder, about, after, moved, settings.index, target)

    locks: list[IO[str]] = []

    def still_current(_: Path) -> None:
        locks.append(lock_folder(root))  # until it is published
        if version_folder(root) != folder:
            raise ExportError("another version was published meanwhile; run the update again")

    notes = {name: about["export"][name] for name in ("key", "settings")} | {"updated": about["version"]}
    try:
        made = assemble_bundle(after, settings, root, index_in, notes, still_current)
    except (BundleError, ValueError) as error:
        raise ExportError(str(error)) from error
    finally:
        for lock in locks:
            lock.close()
    print(
        f"{len(moved.added_rows):,} items entered the index and {len(moved.removed_rows):,} left it since "
        f"{about['version']}; {len(ledger):,} changed since the training"
    )
    if worn := index_degradation(read_manifest(made)["index"], limits):
        print(f"warning: {worn}: build the index anew, python export.py update --bundle {root} --rebuild")
    return made


def read_item_updates(folder: Path) -> pa.Table:
    """All changes since the training; none in a bundle that was never updated."""
    file = folder / ITEM_UPDATES_FILE
    return pq.read_table(file) if file.is_file() else item_changes.ITEM_UPDATE_SCHEMA.empty_table()


def find_training_run(about: dict[str, Any], run: str | None, tracking_uri: str) -> Path:
    """The folder of the run that a bundle was made from. Raises ExportError for another one."""
    name = about["run"]["folder"]
    found = find_run(run or str(Path(about["run"]["config"]["paths"]["runs"]) / name), tracking_uri)
    if found.name != name:
        raise ExportError(f"run={run} is {found.name}, the bundle was made from {name}")
    return found


def index_delta(folder: Path, after: TrainedRun, changed: NDArray) -> IndexDelta:
    """What moves from the version in `folder` to `after`, whose item rows `changed` [n] the ledger names.

    Raises ExportError where other items differ, too.
    """
    items = read_arrow(str(folder / "items.arrow"))
    count, vectors = items.num_rows, after.catalog.vectors.numpy()
    ids = after.items["item_id"].slice(0, count).cast(pa.string()).fill_null("")
    if count > len(vectors) or not ids.equals(items["item_id"]):
        raise ExportError(f"{folder} has other items than its run: export again, python export.py")
    old = items["vector"].combine_chunks().flatten().to_numpy().reshape(count, -1)
    differs = np.zeros(len(vectors), bool)
    differs[:count] = (old != vectors[:count]).any(1)
    if len(others := np.setdiff1d(np.flatnonzero(differs), changed)):
        raise ExportError(
            f"{folder}: the vectors of {len(others):,} items that nobody changed differ from the run's, "
            f"as of {ids[int(others[0])].as_py()!r}: it was trained again. Export it, python export.py"
        )
    was, now = np.zeros(len(vectors), bool), after.catalog.available.numpy()
    was[:count] = items["available"].to_numpy()
    return IndexDelta(np.flatnonzero(was & (differs | ~now)), np.flatnonzero(now & (differs | ~was)))


def update_index(
    folder: Path, about: dict[str, Any], after: TrainedRun, moved: IndexDelta, cfg: DictConfig, target: Path
) -> BuiltIndex:
    """The index of the version in `folder` with what moved, written to `target` and measured again."""
    packed, index = after.catalog.vectors.numpy(), about["index"]
    names = index_files(folder, about)
    for shard, name in enumerate(names):
        found: Any = faiss.read_index(str(folder / name))  # into memory: only there it can be changed
        found.remove_ids(moved.removed_rows)
        add_vectors(found, int8_vector_reader(packed), moved.added_rows[shard :: len(names)])
        faiss.write_index(found, str(target / name))
    files, effort = [target / name for name in names], SearchParams.from_json(index)
    ids, asked = available_item_rows(after), validation_query_vectors(after, cfg.queries)
    shards = read_shards(files)
    measured = measure_search(
        ItemIndex(shards, packed, effort), asked, exact_search(int8_vector_reader(packed), ids, asked)
    )
    size = sum(file.stat().st_size for file in files) / len(ids)
    return BuiltIndex(
        files,
        effort,
        measured,
        index
        | {name: round(value, 4) for name, value in measured._asdict().items()}
        | {
            "vectors": len(ids),
            "imbalance": imbalance_factor(shards),
            "bytes_per_vector": round(size + (packed.shape[1] if effort.refine_factor > 1 else 0), 1),
        },
    )


def index_degradation(index: dict[str, Any], limits: DegradationLimits) -> str:
    """How far an index has come from what it was when it was built; "" inside the limits."""
    built, found = index["built"], []
    if index["recall"] < built["recall"] - limits.max_recall_loss:
        found.append(f"recall@300 fell from {built['recall']} to {index['recall']}")
    if index["imbalance"] and index["imbalance"] > limits.max_imbalance_ratio * built["imbalance"]:
        found.append(f"the imbalance of the lists rose from {built['imbalance']} to {index['imbalance']}")
    if index["vectors"] > limits.max_growth_ratio * built["vectors"]:
        found.append(f"its vectors grew from {built['vectors']:,} to {index['vectors']:,}")
    return " and ".join(found)
