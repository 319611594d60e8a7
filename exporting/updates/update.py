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
from exporting.assemble import Indexed, assemble, step
from exporting.export import LEDGER, indexed_rows, tuned, validation_queries
from exporting.index.build import add, exact, imbalance, measure, opened, unpacked
from exporting.opened_run import ExportError, Trained, find_run, item_tower, open_trained
from exporting.updates.catalog import restocked, rows_of
from serving.storage.bundle import (
    BundleError,
    check_hash,
    index_files,
    read_arrow,
    read_manifest,
    version_folder,
)
from serving.storage.vector_index import Effort, ItemIndex
from training.stage_folders import hold

FIXED = ("hnsw_sq8",)  # families that cannot take items out


class Limits(NamedTuple):
    """What an index may lose by updates before a rebuild is advised."""

    recall_loss: float = 0.01  # of recall@300
    imbalance: float = 1.5  # times the imbalance of its lists
    growth: float = 2.0  # times the vectors, for which it has too few lists then


LIMITS = Limits()


class Moved(NamedTuple):
    """Item rows [n] int64 that leave the index and that enter it; one whose vector changed does both."""

    out: NDArray
    into: NDArray


def update(
    root: Path,
    items: Path | None,
    run: str | None = None,
    tracking_uri: str = "",
    rebuild: bool = False,
    limits: Limits = LIMITS,
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
            check_hash(folder / name, digest)  # what is damaged must not be published again
        before = ledger_of(folder)
        ledger = item_changes.merged(
            before, item_changes.read(items) if items else item_changes.SCHEMA.empty_table()
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
    with step("run"):
        trained = open_trained(run_of(about, run, tracking_uri))
        after = restocked(trained, item_tower(trained), ledger)
        moved = compared(folder, after, rows_of(after.items, ledger))

    def index_in(target: Path) -> Indexed:
        pq.write_table(ledger, target / LEDGER)
        if rebuild or about["index"]["system"] in FIXED:
            if not rebuild:
                settings.index.families = [about["index"]["system"]]
            return tuned(after, settings.index, target)
        return carried_over(folder, about, after, moved, settings.index, target)

    locks: list[IO[str]] = []

    def still_current(_: Path) -> None:
        locks.append(hold(root))  # until it is published
        if version_folder(root) != folder:
            raise ExportError("another version was published meanwhile; run the update again")

    notes = {name: about["export"][name] for name in ("key", "settings")} | {"updated": about["version"]}
    try:
        made = assemble(after, settings, root, index_in, notes, still_current)
    except (BundleError, ValueError) as error:
        raise ExportError(str(error)) from error
    finally:
        for lock in locks:
            lock.close()
    print(
        f"{len(moved.into):,} items entered the index and {len(moved.out):,} left it since "
        f"{about['version']}; {len(ledger):,} changed since the training"
    )
    if worn := drift(read_manifest(made)["index"], limits):
        print(f"warning: {worn}: build the index anew, python export.py update --bundle {root} --rebuild")
    return made


def ledger_of(folder: Path) -> pa.Table:
    """All changes since the training; none in a bundle that was never updated."""
    file = folder / LEDGER
    return pq.read_table(file) if file.is_file() else item_changes.SCHEMA.empty_table()


def run_of(about: dict[str, Any], run: str | None, tracking_uri: str) -> Path:
    """The folder of the run that a bundle was made from. Raises ExportError for another one."""
    name = about["run"]["folder"]
    found = find_run(run or str(Path(about["run"]["config"]["paths"]["runs"]) / name), tracking_uri)
    if found.name != name:
        raise ExportError(f"run={run} is {found.name}, the bundle was made from {name}")
    return found


def compared(folder: Path, after: Trained, changed: NDArray) -> Moved:
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
    return Moved(np.flatnonzero(was & (differs | ~now)), np.flatnonzero(now & (differs | ~was)))


def carried_over(
    folder: Path, about: dict[str, Any], after: Trained, moved: Moved, cfg: DictConfig, target: Path
) -> Indexed:
    """The index of the version in `folder` with what moved, written to `target` and measured again."""
    packed, index = after.catalog.vectors.numpy(), about["index"]
    names = index_files(folder, about)
    for shard, name in enumerate(names):
        found: Any = faiss.read_index(str(folder / name))  # into memory: only there it can be changed
        found.remove_ids(moved.out)
        add(found, unpacked(packed), moved.into[shard :: len(names)])
        faiss.write_index(found, str(target / name))
    files, effort = [target / name for name in names], Effort.of(index)
    ids, asked = indexed_rows(after), validation_queries(after, cfg.queries)
    shards = opened(files)
    measured = measure(ItemIndex(shards, packed, effort), asked, exact(unpacked(packed), ids, asked))
    size = sum(file.stat().st_size for file in files) / len(ids)
    return Indexed(
        files,
        effort,
        measured,
        index
        | {name: round(value, 4) for name, value in measured._asdict().items()}
        | {
            "vectors": len(ids),
            "imbalance": imbalance(shards),
            "bytes_per_vector": round(size + (packed.shape[1] if effort.refine > 1 else 0), 1),
        },
    )


def drift(index: dict[str, Any], limits: Limits) -> str:
    """How far an index has come from what it was when it was built; "" inside the limits."""
    built, found = index["built"], []
    if index["recall"] < built["recall"] - limits.recall_loss:
        found.append(f"recall@300 fell from {built['recall']} to {index['recall']}")
    if index["imbalance"] and index["imbalance"] > limits.imbalance * built["imbalance"]:
        found.append(f"the imbalance of the lists rose from {built['imbalance']} to {index['imbalance']}")
    if index["vectors"] > limits.growth * built["vectors"]:
        found.append(f"its vectors grew from {built['vectors']:,} to {index['vectors']:,}")
    return " and ".join(found)
