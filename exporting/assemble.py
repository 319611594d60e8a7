"""Assembles a verified, published bundle from a trained run and an index of its items, step by step.

modules → index → items → golden requests → verification → published
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from exporting import verification
from exporting.bundle import (
    build_manifest,
    publish,
    staging_folder,
    write_arrow,
    write_bundle_manifest,
    write_copurchase,
    write_items,
)
from exporting.exportable_run import ExportableRun, ExportError
from exporting.golden_requests import (
    SampledCheckouts,
    sample_requests,
    select_golden_requests,
    synthetic_requests,
)
from exporting.index.build import RECALL_AT, SearchMetrics, read_shards
from exporting.item_tower import save_item_tower
from exporting.lowering import lower_modules, save_torchscript
from exporting.slate_objective import read_objective
from exporting.spare_rows import pad_objective, with_spare_rows
from serving.live_items.item_features import TOWER_ENTRY
from serving.pipeline.slate_policy import SLOTS
from serving.storage.vector_index import ItemIndex, SearchParams

DEFAULT_SPARE_ITEMS = 1000


class BuiltIndex(NamedTuple):
    """The index of a bundle that is being assembled."""

    files: list[Path]  # of its shards, in the bundle's folder
    search_params: SearchParams
    metrics: SearchMetrics
    manifest_entry: dict[str, Any]  # the manifest's `index`


def assemble_bundle(
    run: ExportableRun,
    settings: DictConfig,
    root: Path,
    build_index: Callable[[Path], BuiltIndex],
    export_record: dict[str, Any],
    before_publish: Callable[[Path], None],
) -> Path:
    """Make, verify and publish a bundle in `root`. Returns the folder of the new version.

    Raises ExportError for a bundle that fails a check; `current` then does not move.

    Args:
        settings: `slate`, `ranked` and `verify` of configs/export.yaml.
        build_index: builds the index in a given folder.
        export_record: goes into the manifest's `export`.
        before_publish: is called with the bundle's folder after verification.
    """
    started = time.perf_counter()
    _check_counts(settings)
    n_spare = spare_rows(settings)
    objective = pad_objective(read_objective(run, settings), n_spare)
    run = with_spare_rows(run, n_spare)
    run.sources.max_candidates = settings.ranked
    with staging_folder(root) as folder:
        with timed_step("modules"):
            modules = lower_modules(run.tower, run.sources, run.ranker)
            save_torchscript(modules, folder)
            if n_spare:
                save_item_tower(run, run.items.num_rows - 1, folder)
        with timed_step("index"):
            built = build_index(folder)
            index = ItemIndex(read_shards(built.files), run.catalog.vectors.numpy(), built.search_params)
        with timed_step("items"):
            write_items(run, objective, folder)
            write_copurchase(run, folder)
            shutil.copy(run.prepared.folder / "schema.json", folder)
        with timed_step("golden requests"):
            checkouts = sample_requests(run, ("test", "validation"), settings.verify.checkouts)
            count = settings.verify.golden  # the clearest of five times as many
            drawn = synthetic_requests(run, checkouts, 5 * count)
            golden = select_golden_requests(run, modules, index, drawn, objective, count)
            write_arrow(golden, folder / "golden.arrow")
        with timed_step("verification"):
            manifest = build_manifest(run, folder, objective, built.manifest_entry, export_record)
            manifest |= live_item_entries(run, n_spare)
            manifest["dims"]["spare"] = n_spare  # of the items, the last
            _verify(run, folder, manifest, checkouts, built.metrics)
            manifest["export"]["golden_requests"] = "drawn"  # not of shoppers, as in earlier releases
            manifest["export"]["seconds"] = round(time.perf_counter() - started, 1)
            write_bundle_manifest(manifest, folder)
        before_publish(folder)
        version = publish(folder, root, manifest["version"])
    print(
        f"bundle: {version} {manifest_summary(manifest)}\n{time.perf_counter() - started:.1f} s", flush=True
    )
    return version


def spare_rows(settings: DictConfig) -> int:
    """The number of spare rows for new items. Settings of an earlier release lack it: the default applies."""
    return int(settings.get("spare_items", DEFAULT_SPARE_ITEMS))


def live_item_entries(run: ExportableRun, n_spare: int) -> dict[str, Any]:
    """The manifest's entries with which serving encodes new items; empty without spare rows."""
    tokens = int(run.prepared.meta["config"]["features"]["tokens_per_item"])
    return {TOWER_ENTRY: {"tokens_per_item": tokens}} if n_spare else {}


def _check_counts(settings: DictConfig) -> None:
    """Raises ExportError for a `ranked` below the number of slots, and for negative `spare_items`."""
    if spare_rows(settings) < 0:
        raise ExportError(f"bundle.spare_items is {settings.spare_items}: expected 0 or more")
    if settings.ranked is not None and settings.ranked < SLOTS:
        raise ExportError(f"bundle.ranked is {settings.ranked}: expected {SLOTS} or more, or null for all")


def _verify(
    run: ExportableRun,
    folder: Path,
    manifest: dict[str, Any],
    checkouts: SampledCheckouts,
    index_metrics: SearchMetrics,
) -> None:
    """Load the bundle as serving does, and compare it with the run. Records the parity in the manifest."""
    write_bundle_manifest(manifest, folder)
    with verification.load_recommender(folder) as recommender:
        parity = verification.measure_parity(run, recommender, checkouts)
    verification.check_limits(index_metrics, parity, run.tasks)
    manifest["export"]["parity"] = asdict(parity)


def manifest_summary(manifest: dict[str, Any]) -> str:
    """Describes the sizes, index, parity and calibration of a manifest in lines of text."""
    sizes, index, parity = manifest["bytes"], manifest["index"], manifest["export"]["parity"]
    errors = ", ".join(f"{name} {error:.1e}" for name, error in parity["errors"].items())
    size_list = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items())
    n_spare = manifest["dims"].get("spare", 0)
    n_items = manifest["dims"]["items"] - 1 - n_spare  # row 0 is not an item
    room = f", room for {n_spare:,} new ones" if n_spare else ""
    return (
        f"({sum(sizes.values()) / 1e6:.1f} MB: {size_list}); {n_items:,} items{room}\n"
        f"index: {index['system']}, recall@{RECALL_AT} {index['recall']:.4f}, p50 {index['p50_ms']:.2f} ms, "
        f"p99 {index['p99_ms']:.2f} ms, {index['bytes_per_vector']:.1f} bytes per vector\n"
        f"parity over {parity['candidates']:,} candidates: {errors}; "
        f"a request takes p50 {parity['p50_ms']:.1f} ms, p99 {parity['p99_ms']:.1f} ms\n"
        f"{_calibration_summary(manifest['calibration'])}"
        f"{_recalibration_summary(manifest['recalibration'])}"
    )


def _calibration_summary(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return "calibration: unknown, the run was not evaluated (python -m evaluation.evaluate RUN)"
    errors = {r["task"]: r["ece"] for r in calibration["slices"] if r["group"] == "all" and "ece" in r}
    error_list = ", ".join(f"p({task}) {error:.4f}" for task, error in errors.items())
    return f"calibration error on the {calibration['split']} split, over the candidates: {error_list}"


def _recalibration_summary(recalibration: dict[str, Any] | None) -> str:
    """Describes, by task, the ratio of predicted to observed newest outcomes; "" without recalibration.

    The text gives the ratio before and after recalibration.
    """
    if not recalibration or not recalibration["levels"]:
        return ""
    changes = ", ".join(
        f"p({task}) {1 / level['level']:.2f} → {level['applied'] / level['level']:.2f} "
        f"({level['events']:,.0f} events of {level['window_days']} days)"
        for task, level in recalibration["levels"].items()
    )
    return f"\npredicted / observed of the newest outcomes: {changes}"


@contextmanager
def timed_step(name: str) -> Iterator[None]:
    """Print the name of a step, and its seconds when it ends."""
    print(f"{name} ...", end="", flush=True)
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        print(" failed", flush=True)
        raise
    print(f" {time.perf_counter() - started:.1f} s", flush=True)
