"""A training run → a verified bundle, step by step."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from evaluation.report.index_page import front, index_page
from evaluation.report.tables import text_table
from exporting import tuning, verify
from exporting.bundle import (
    building,
    items_table,
    manifest,
    publish,
    write_arrow,
    write_manifest,
    write_store,
)
from exporting.golden import checkouts, golden
from exporting.index import RECALL_AT, exact, opened, unpacked
from exporting.lowering import lowered, save
from exporting.source import (
    ExportError,
    Trained,
    calibration,
    find_run,
    item_ids,
    margins,
    open_trained,
    queries,
    sample,
)
from serving.bundle import BundleError, read_manifest, version_folder
from serving.search import ItemIndex
from serving.slate import Policy, known_margins
from training.folders import ROOT


def export(cfg: DictConfig) -> Path:
    """Export the run `cfg.run` to `cfg.bundle.dir` and return the folder of the new version.

    Raises ExportError if there is nothing to export or the bundle fails a check; `current` then stays.
    """
    started = time.perf_counter()
    run, root = find_run(cfg.run, cfg.mlflow.tracking_uri), Path(cfg.bundle.dir)
    published = up_to_date(root, run, cfg)
    if published:
        print(f"bundle: {published} is up to date with {run.name} (bundle.force=true redoes it)")
        return published
    with _step("run"):
        trained = open_trained(run)
    return export_trained(trained, cfg, started)


def up_to_date(root: Path, run: Path, cfg: DictConfig) -> Path | None:
    """The version that `current` points at, if it was made from this run, settings and code."""
    if cfg.bundle.force or not (root / "current").exists():
        return None
    try:
        about = read_manifest(version_folder(root))
    except BundleError:
        return None  # made by an older version, or damaged: make it anew
    same = about["run"]["folder"] == run.name and about["export"].get("key") == key(cfg)
    # A run that was evaluated since has something to say that the bundle does not hold yet.
    return version_folder(root) if same and about["calibration"] == calibration(run) else None


def key(cfg: DictConfig) -> str:
    """A hash of the settings that shape a bundle and of the code that makes and reads it."""
    digest = hashlib.blake2b(digest_size=8)
    settings = {"index": cfg.index, "slate": cfg.bundle.slate, "verify": cfg.verify}
    digest.update(OmegaConf.to_yaml(OmegaConf.create(settings), sort_keys=True).encode())
    for room in ("exporting", "serving"):
        for file in sorted((ROOT / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def export_trained(trained: Trained, cfg: DictConfig, started: float | None = None) -> Path:
    """As `export`, for a run that is open."""
    started = time.perf_counter() if started is None else started
    root = Path(cfg.bundle.dir)
    try:
        policy = Policy(**cfg.bundle.slate)
        if policy.margin:
            known_margins(margins(trained))
    except ValueError as error:
        raise ExportError(f"bundle.{error}") from error
    with building(root) as folder:
        with _step("modules"):
            pipeline = lowered(trained.tower, trained.sources, trained.ranker)
            save(pipeline, folder)
        with _step("index"):
            tuned = _index(trained, cfg.index, folder / "index")
            if len(cfg.index.families) > 1:
                asked = ", ".join(f"{name} {cfg.index[name]}" for name in tuning.TARGETS)
                page = index_page(tuning.rows(tuned), "The index", f"Asked: {asked}. {tuned.missed}")
                (folder / "index.html").write_text(page)
            choice, measured = tuned.choice, tuned.choice.measured
            index = ItemIndex(opened(tuned.files), trained.catalog.vectors.numpy(), choice.effort)
        with _step("items"):
            write_arrow(items_table(trained), folder / "items.arrow")
        with _step("golden requests"):
            examples = sample(trained, ("test", "validation"), cfg.verify.checkouts)
            schema = trained.schema
            requests = checkouts(examples, item_ids(trained), schema.context, schema.profile)
            some = slice(0, 5 * cfg.verify.golden)  # the clearest fifth of these
            chosen = golden(
                trained, pipeline, index, examples[some], requests[some], policy, cfg.verify.golden
            )
            write_arrow(chosen, folder / "golden.arrow")
        with _step("verification"):
            content = manifest(trained, folder, policy, tuning.about(tuned, cfg.index), {"key": key(cfg)})
            write_manifest(content, folder)
            with verify.loaded(folder) as recommender:
                parity = verify.parity(trained, recommender, examples, requests)
            verify.check(measured, parity)
            content["export"] |= {
                "parity": asdict(parity),
                "seconds": round(time.perf_counter() - started, 1),
            }
            write_manifest(content, folder)
        with _step("store"):
            users = write_store(trained.prepared.folder, schema, folder / "store.arrow")
            os.replace(folder / "store.arrow", root / "store.arrow")
        target = publish(folder, root, content["version"])
    sizes = content["bytes"]
    print(
        f"bundle: {target} ({sum(sizes.values()) / 1e6:.1f} MB: "
        + ", ".join(f"{name} {n / 1e6:.1f}" for name, n in sizes.items())
        + f"); {content['dims']['items'] - 1:,} items, {users:,} users in store.arrow\n"
        f"index: {choice.family}, recall@{RECALL_AT} {measured.recall:.4f}, p50 {measured.p50_ms:.2f} ms, "
        f"p99 {measured.p99_ms:.2f} ms, {choice.bytes_per_vector:.1f} bytes per vector\n"
        f"parity over {parity.candidates:,} candidates: p(click) {parity.click:.1e}, "
        f"p(purchase) {parity.purchase:.1e}, value {parity.value:.1e} relative; "
        f"a request takes p50 {parity.p50_ms:.1f} ms, p99 {parity.p99_ms:.1f} ms\n"
        f"{_calibrated(content['calibration'])}\n{time.perf_counter() - started:.1f} s"
    )
    return target


def _calibrated(found: dict[str, Any] | None) -> str:
    if found is None:
        return "calibration: unknown, for this run was not evaluated (python -m evaluation.evaluate RUN)"
    errors = {r["head"]: r["ece"] for r in found["slices"] if r["group"] == "all" and "ece" in r}
    listed = ", ".join(f"p({head}) {error:.4f}" for head, error in errors.items())
    return f"calibration error on the {found['split']} split, over the candidates: {listed}"


@torch.inference_mode()
def _index(trained: Trained, cfg: DictConfig, folder: Path) -> tuning.Tuned:
    """The index over the available items, searched at its target recall on validation checkouts; its files
    are left in `folder.parent`."""
    packed = trained.catalog.vectors
    vectors = unpacked(packed.numpy())
    ids = np.flatnonzero(trained.catalog.available.numpy())
    ids = ids[ids > 0].astype(np.int64)
    asked = trained.tower(queries(sample(trained, ("validation", "test"), cfg.queries), 0), packed).numpy()
    try:
        truth = exact(vectors, ids, asked)
        tuned = tuning.tune(vectors, packed.numpy(), ids, asked, truth, cfg, folder)
    except ValueError as error:
        raise ExportError(f"index: {error}") from error
    if tuned.missed:
        print(f"warning: no index meets index.*: {tuned.missed}; the nearest is taken", flush=True)
    if len(tuned.tried) > 1 and len(cfg.families) > 1:
        print("\n" + text_table(front(tuning.rows(tuned))), flush=True)
    files = [file.rename(folder.parent / file.name) for file in tuned.files]
    shutil.rmtree(folder)
    return tuned._replace(files=files)


@contextmanager
def _step(name: str) -> Iterator[None]:
    print(f"{name} ...", end="", flush=True)
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        print(" failed", flush=True)
        raise
    print(f" {time.perf_counter() - started:.1f} s", flush=True)
