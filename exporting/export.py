"""Exports a training run as a verified bundle: `python export.py`."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from data.errors import DataError
from data.io.code_hash import code_hash, named_modules
from evaluation.alarms import read_alarms
from exporting.assemble import BuiltIndex, assemble_bundle, timed_step
from exporting.bundle import write_store
from exporting.exportable_run import (
    ExportableRun,
    ExportError,
    find_run,
    item_ids,
    load_exportable_run,
    load_item_tower,
    read_calibration,
    sample_checkouts,
    to_latest_queries,
)
from exporting.index import tuning
from exporting.index.build import exact_search, int8_vector_reader
from exporting.item_updates import update_run
from exporting.live_updates import read_live_updates
from exporting.signing import check_key, is_signed, sign_version
from reporting.index_page import index_page, pareto_front
from reporting.tables import text_table
from serving.files import is_uri, write_atomically
from serving.live_items.changes import UNTIL
from serving.storage.bundle import BundleError, read_manifest, version_folder
from serving.storage.bundle_mirror import has_version, local_root, pull_current
from training.config_versions import load_run_config
from training.source_settings import source_settings

ITEM_UPDATES_FILE = "changes.parquet"  # in an updated bundle: its item updates since the training


def export(cfg: DictConfig) -> Path:
    """Export the run `cfg.run` to `cfg.bundle.dir`; returns the folder of the new version.

    Raises ExportError if there is no run or the bundle fails a check; `current` then does not move.
    """
    sign = None if cfg.get("sign") is None else Path(cfg.sign)
    check_key(sign)
    run_folder, root = find_run(cfg.run, cfg.mlflow.tracking_uri), open_root(cfg.bundle.dir)
    published = up_to_date_version(root, run_folder, cfg)
    if published and is_signed(published, sign):
        print(f"bundle: {published} is up to date with {run_folder.name} (bundle.force=true redoes it)")
        return published
    if not cfg.verify.force:
        reject_useless(run_folder)
    with timed_step("run"):
        run = load_exportable_run(run_folder)
    _warn_dropped_item_updates(root, run_folder)
    merged = None if cfg.live is None else merge_live_items(run, cfg.live)
    if merged is not None:
        run = merged.run

    def finish(folder: Path) -> None:
        sign_version(folder, sign)
        with timed_step("store"), write_atomically(root / "store.arrow") as partial:
            write_store(run.prepared.folder, run.schema, partial)

    settings = bundle_settings(cfg)
    record: dict[str, Any] = {
        "key": settings_hash(settings, run.cfg),
        "settings": OmegaConf.to_container(settings, resolve=True),
    }

    def build_index(folder: Path) -> BuiltIndex:
        if merged is not None:
            pq.write_table(merged.updates, folder / ITEM_UPDATES_FILE)
        return build_tuned_index(run, cfg.index, folder)

    if merged is not None:
        record[UNTIL] = merged.until
    return assemble_bundle(run, settings, root, build_index, record, finish)


class MergedRun(NamedTuple):
    """A run with the items that a shop changed while the service was running."""

    run: ExportableRun
    updates: pa.Table  # what was merged
    until: float  # Unix seconds (UTC) when it was read


def merge_live_items(run: ExportableRun, uri: str) -> MergedRun:
    """The run, updated by the item entries of a live state.

    Raises ExportError if the live state cannot be read or applied.
    """
    with timed_step("live items"):
        live = read_live_updates(uri, run.schema, set(item_ids(run)))
        if not live.updates.num_rows:
            return MergedRun(run, live.updates, live.until)
        try:
            return MergedRun(update_run(run, load_item_tower(run), live.updates), live.updates, live.until)
        except DataError as error:
            raise ExportError(f"live={uri}: {error}") from error


def reject_useless(run_folder: Path) -> None:
    """Print the alarms of a run. Raises ExportError for one that makes it useless (evaluation/alarms.py)."""
    alarms = read_alarms(run_folder)
    useless = [alarm["text"] for alarm in alarms if alarm["is_useless"]]
    for alarm in alarms:
        print(f"alarm of the run: {alarm['text']}", flush=True)
    if useless:
        raise ExportError(
            f"not exported: {useless[0]} (test split). Train longer or on more data; verify.force=true "
            "exports it all the same"
        )


def open_root(bundle: str) -> Path:
    """The local bundle root; for a URI, its local copy with the published versions.

    Raises ExportError if the storage does not answer.
    """
    if not bundle:
        raise ExportError("bundle.dir= is empty: give the folder or the URI of the bundle")
    if not is_uri(bundle):
        return Path(bundle)
    try:
        root = local_root(bundle)
        if has_version(root):
            pull_current(root)
        return root
    except OSError as error:
        raise ExportError(str(error)) from error


def up_to_date_version(root: Path, run: Path, cfg: DictConfig) -> Path | None:
    """The version that `current` names, if it was made from this run, these settings and this code."""
    if cfg.bundle.force or cfg.live is not None or not (root / "current").exists():
        return None  # a live state changes all the time
    try:
        manifest = read_manifest(version_folder(root))
        key = settings_hash(bundle_settings(cfg), load_run_config(run))
    except (BundleError, FileNotFoundError, ModuleNotFoundError):
        return None  # a bundle of an older format, or damaged; loading the run says what it lacks
    is_same = manifest["run"]["folder"] == run.name and manifest["export"].get("key") == key
    # An evaluation of the run since then adds its calibration to the bundle.
    is_same = is_same and manifest["calibration"] == read_calibration(run)
    return version_folder(root) if is_same else None


def _warn_dropped_item_updates(root: Path, run: Path) -> None:
    """Print that an export of the same run drops the changes of `export.py update`."""
    try:
        is_same_run = read_manifest(version_folder(root))["run"]["folder"] == run.name
    except BundleError:
        return
    updates = root / "current" / ITEM_UPDATES_FILE
    if is_same_run and updates.is_file():
        file = updates.resolve()
        print(
            f"note: items are as the run knows them; the updates since its training ({file}) are dropped. "
            f"python export.py update --bundle {root} --items {file} applies them again",
            flush=True,
        )


def bundle_settings(cfg: DictConfig) -> DictConfig:
    """The settings that shape a bundle: index, slate, ranked, spare_items and verify."""
    bundle = cfg.bundle
    settings = {
        "index": cfg.index, "slate": bundle.slate, "ranked": bundle.ranked, "spare_items": bundle.spare_items,
        "verify": cfg.verify,
    }  # fmt: skip
    return OmegaConf.create(settings)


def settings_hash(settings: DictConfig, run_cfg: DictConfig) -> str:
    """A hash of the settings that shape a bundle, of the exporting code and of the run's classes."""
    named_by = [OmegaConf.to_container(settings, resolve=True), OmegaConf.to_container(run_cfg)]
    code = code_hash([__name__, *named_modules(*named_by, source_settings(run_cfg.retrieval.sources))])
    text = f"{OmegaConf.to_yaml(settings, sort_keys=True)} {code}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@torch.inference_mode()
def build_tuned_index(run: ExportableRun, cfg: DictConfig, folder: Path) -> BuiltIndex:
    """The index of the available items, tuned to its target recall on validation checkouts.

    Writes the index's files to `folder`. If several families were compared, also writes a page on the
    comparison.
    """
    packed = run.catalog.vectors.numpy()
    vectors = int8_vector_reader(packed)
    ids, queries = available_item_rows(run), validation_query_vectors(run, cfg.queries)
    scratch = folder / "families"
    try:
        truth = exact_search(vectors, ids, queries)
        tuned = tuning.tune_index(vectors, packed, ids, queries, truth, cfg, scratch)
    except ValueError as error:
        raise ExportError(f"index: {error}") from error
    if tuned.missed_targets:
        print(f"warning: no index meets index.*: {tuned.missed_targets}; the nearest is taken", flush=True)
    if len(cfg.families) > 1:
        rows = tuning.trial_rows(tuned)
        print("\n" + text_table(pareto_front(rows)), flush=True)
        targets = ", ".join(f"{name} {cfg[name]}" for name in tuning.TARGET_METRICS)
        page = index_page(rows, "The index", f"Targets: {targets}. {tuned.missed_targets}")
        (folder / "index.html").write_text(page)
    entry = tuning.index_manifest(tuned, cfg)
    files = [file.rename(folder / file.name) for file in tuned.files]
    shutil.rmtree(scratch)
    return BuiltIndex(files, tuned.best_trial.search_params, tuned.best_trial.metrics, entry)


def available_item_rows(run: ExportableRun) -> NDArray:
    """Returns the rows [n] int64 of the available items, which the index holds."""
    ids = np.flatnonzero(run.catalog.available.numpy())
    return ids[ids > 0].astype(np.int64)


@torch.inference_mode()
def validation_query_vectors(run: ExportableRun, count: int) -> NDArray:
    """Returns query vectors [count, D] of validation checkouts, with which an index is measured."""
    examples = sample_checkouts(run, ("validation", "test"), count)
    return run.tower(to_latest_queries(examples), run.catalog.vectors).numpy()
