"""A training run → a verified bundle: `python export.py`."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from exporting.assemble import BuiltIndex, assemble_bundle, timed_step
from exporting.bundle import write_store
from exporting.index import tuning
from exporting.index.build import exact_search, int8_vector_reader
from exporting.opened_run import (
    ExportError,
    TrainedRun,
    find_run,
    load_trained_run,
    read_calibration,
    sample_checkouts,
    to_latest_queries,
)
from reporting.index_page import index_page, pareto_front
from reporting.tables import text_table
from serving.storage.bundle import BundleError, read_manifest, version_folder
from training.stage_folders import ROOT

ITEM_UPDATES_FILE = "changes.parquet"  # in a bundle: its items that changed since the training


def export(cfg: DictConfig) -> Path:
    """Export the run `cfg.run` to `cfg.bundle.dir` and return the folder of the new version.

    Raises ExportError if there is nothing to export or the bundle fails a check; `current` then stays.
    """
    run, root = find_run(cfg.run, cfg.mlflow.tracking_uri), Path(cfg.bundle.dir)
    published = up_to_date_version(root, run, cfg)
    if published:
        print(f"bundle: {published} is up to date with {run.name} (bundle.force=true redoes it)")
        return published
    with timed_step("run"):
        trained = load_trained_run(run)
    _warn_dropped_item_updates(root, run)

    def store(folder: Path) -> None:
        with timed_step("store"):
            write_store(trained.prepared.folder, trained.schema, folder / "store.arrow")
            os.replace(folder / "store.arrow", root / "store.arrow")

    settings = bundle_settings(cfg)
    notes = {"key": settings_hash(settings), "settings": OmegaConf.to_container(settings, resolve=True)}
    return assemble_bundle(
        trained, settings, root, lambda folder: build_tuned_index(trained, cfg.index, folder), notes, store
    )


def up_to_date_version(root: Path, run: Path, cfg: DictConfig) -> Path | None:
    """The version that `current` points at, if it was made from this run, settings and code."""
    if cfg.bundle.force or not (root / "current").exists():
        return None
    try:
        about = read_manifest(version_folder(root))
    except BundleError:
        return None  # made by an older version, or damaged: make it anew
    same = about["run"]["folder"] == run.name and about["export"].get("key") == settings_hash(
        bundle_settings(cfg)
    )
    # A run that was evaluated since has something to say that the bundle does not hold yet.
    return version_folder(root) if same and about["calibration"] == read_calibration(run) else None


def _warn_dropped_item_updates(root: Path, run: Path) -> None:
    """An export starts from its run; what `export.py update` changed since is not in it."""
    try:
        same = read_manifest(version_folder(root))["run"]["folder"] == run.name
    except BundleError:
        return
    if same and (ledger := root / "current" / ITEM_UPDATES_FILE).is_file():
        file = ledger.resolve()
        print(
            f"note: the items that changed since the training ({file}) are as the run knows them again; "
            f"python export.py update --bundle {root} --items {file} changes them anew",
            flush=True,
        )


def bundle_settings(cfg: DictConfig) -> DictConfig:
    """The settings that shape a bundle: index, slate, ranked and verify."""
    bundle = cfg.bundle
    settings = {"index": cfg.index, "slate": bundle.slate, "ranked": bundle.ranked, "verify": cfg.verify}
    return OmegaConf.create(settings)


def settings_hash(settings: DictConfig) -> str:
    """A hash of the settings that shape a bundle and of the code that makes and reads it."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(OmegaConf.to_yaml(settings, sort_keys=True).encode())
    for room in ("exporting", "serving"):
        for file in sorted((ROOT / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


@torch.inference_mode()
def build_tuned_index(trained: TrainedRun, cfg: DictConfig, folder: Path) -> BuiltIndex:
    """The index over the available items, searched at its target recall on validation checkouts; its files,
    and where families were compared their page, in `folder`."""
    packed = trained.catalog.vectors.numpy()
    ids, asked = available_item_rows(trained), validation_query_vectors(trained, cfg.queries)
    scratch = folder / "families"
    try:
        truth = exact_search(int8_vector_reader(packed), ids, asked)
        found = tuning.tune_index(int8_vector_reader(packed), packed, ids, asked, truth, cfg, scratch)
    except ValueError as error:
        raise ExportError(f"index: {error}") from error
    if found.missed_targets:
        print(f"warning: no index meets index.*: {found.missed_targets}; the nearest is taken", flush=True)
    if len(cfg.families) > 1:
        print("\n" + text_table(pareto_front(tuning.trial_rows(found))), flush=True)
        asked_for = ", ".join(f"{name} {cfg[name]}" for name in tuning.TARGET_METRICS)
        page = index_page(
            tuning.trial_rows(found), "The index", f"Asked: {asked_for}. {found.missed_targets}"
        )
        (folder / "index.html").write_text(page)
    about: dict[str, Any] = tuning.index_manifest(found, cfg)
    files = [file.rename(folder / file.name) for file in found.files]
    shutil.rmtree(scratch)
    return BuiltIndex(files, found.best_trial.search_params, found.best_trial.metrics, about)


def available_item_rows(trained: TrainedRun) -> NDArray:
    """Item rows [n] int64 that the index holds: the available ones."""
    ids = np.flatnonzero(trained.catalog.available.numpy())
    return ids[ids > 0].astype(np.int64)


@torch.inference_mode()
def validation_query_vectors(trained: TrainedRun, count: int) -> NDArray:
    """Query vectors [count, D] of validation checkouts, to measure an index with."""
    examples = sample_checkouts(trained, ("validation", "test"), count)
    return trained.tower(to_latest_queries(examples), trained.catalog.vectors).numpy()
