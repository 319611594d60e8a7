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

from exporting.assemble import Indexed, assemble, step
from exporting.bundle import write_store
from exporting.index import tuning
from exporting.index.build import exact, unpacked
from exporting.opened_run import ExportError, Trained, calibration, find_run, open_trained, queries, sample
from reporting.index_page import front, index_page
from reporting.tables import text_table
from serving.storage.bundle import BundleError, read_manifest, version_folder
from training.stage_folders import ROOT

LEDGER = "changes.parquet"  # in a bundle: its items that changed since the training


def export(cfg: DictConfig) -> Path:
    """Export the run `cfg.run` to `cfg.bundle.dir` and return the folder of the new version.

    Raises ExportError if there is nothing to export or the bundle fails a check; `current` then stays.
    """
    run, root = find_run(cfg.run, cfg.mlflow.tracking_uri), Path(cfg.bundle.dir)
    published = up_to_date(root, run, cfg)
    if published:
        print(f"bundle: {published} is up to date with {run.name} (bundle.force=true redoes it)")
        return published
    with step("run"):
        trained = open_trained(run)
    _say_what_is_left_behind(root, run)

    def store(folder: Path) -> None:
        with step("store"):
            write_store(trained.prepared.folder, trained.schema, folder / "store.arrow")
            os.replace(folder / "store.arrow", root / "store.arrow")

    settings = settings_of(cfg)
    notes = {"key": key(settings), "settings": OmegaConf.to_container(settings, resolve=True)}
    return assemble(trained, settings, root, lambda folder: tuned(trained, cfg.index, folder), notes, store)


def up_to_date(root: Path, run: Path, cfg: DictConfig) -> Path | None:
    """The version that `current` points at, if it was made from this run, settings and code."""
    if cfg.bundle.force or not (root / "current").exists():
        return None
    try:
        about = read_manifest(version_folder(root))
    except BundleError:
        return None  # made by an older version, or damaged: make it anew
    same = about["run"]["folder"] == run.name and about["export"].get("key") == key(settings_of(cfg))
    # A run that was evaluated since has something to say that the bundle does not hold yet.
    return version_folder(root) if same and about["calibration"] == calibration(run) else None


def _say_what_is_left_behind(root: Path, run: Path) -> None:
    """An export starts from its run; what `export.py update` changed since is not in it."""
    try:
        same = read_manifest(version_folder(root))["run"]["folder"] == run.name
    except BundleError:
        return
    if same and (ledger := root / "current" / LEDGER).is_file():
        file = ledger.resolve()
        print(
            f"note: the items that changed since the training ({file}) are as the run knows them again; "
            f"python export.py update --bundle {root} --items {file} changes them anew",
            flush=True,
        )


def settings_of(cfg: DictConfig) -> DictConfig:
    """The settings that shape a bundle: index, slate, ranked and verify."""
    bundle = cfg.bundle
    settings = {"index": cfg.index, "slate": bundle.slate, "ranked": bundle.ranked, "verify": cfg.verify}
    return OmegaConf.create(settings)


def key(settings: DictConfig) -> str:
    """A hash of the settings that shape a bundle and of the code that makes and reads it."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(OmegaConf.to_yaml(settings, sort_keys=True).encode())
    for room in ("exporting", "serving"):
        for file in sorted((ROOT / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


@torch.inference_mode()
def tuned(trained: Trained, cfg: DictConfig, folder: Path) -> Indexed:
    """The index over the available items, searched at its target recall on validation checkouts; its files,
    and where families were compared their page, in `folder`."""
    packed = trained.catalog.vectors.numpy()
    ids, asked = indexed_rows(trained), validation_queries(trained, cfg.queries)
    scratch = folder / "families"
    try:
        truth = exact(unpacked(packed), ids, asked)
        found = tuning.tune(unpacked(packed), packed, ids, asked, truth, cfg, scratch)
    except ValueError as error:
        raise ExportError(f"index: {error}") from error
    if found.missed:
        print(f"warning: no index meets index.*: {found.missed}; the nearest is taken", flush=True)
    if len(cfg.families) > 1:
        print("\n" + text_table(front(tuning.rows(found))), flush=True)
        asked_for = ", ".join(f"{name} {cfg[name]}" for name in tuning.TARGETS)
        page = index_page(tuning.rows(found), "The index", f"Asked: {asked_for}. {found.missed}")
        (folder / "index.html").write_text(page)
    about: dict[str, Any] = tuning.about(found, cfg)
    files = [file.rename(folder / file.name) for file in found.files]
    shutil.rmtree(scratch)
    return Indexed(files, found.choice.effort, found.choice.measured, about)


def indexed_rows(trained: Trained) -> NDArray:
    """Item rows [n] int64 that the index holds: the available ones."""
    ids = np.flatnonzero(trained.catalog.available.numpy())
    return ids[ids > 0].astype(np.int64)


@torch.inference_mode()
def validation_queries(trained: Trained, count: int) -> NDArray:
    """Query vectors [count, D] of validation checkouts, to measure an index with."""
    examples = sample(trained, ("validation", "test"), count)
    return trained.tower(queries(examples), trained.catalog.vectors).numpy()
