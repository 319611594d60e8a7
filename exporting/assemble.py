"""A trained run and an index of its items → a verified bundle, step by step.

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
    write_items,
)
from exporting.golden_requests import select_golden_requests, to_checkouts
from exporting.index.build import RECALL_AT, SearchMetrics, read_shards
from exporting.lowering import lower_modules, save_torchscript
from exporting.opened_run import ExportError, TrainedRun, item_ids, item_margins, sample_checkouts
from serving.pipeline.slate_policy import SLOTS, SlatePolicy, impute_margins
from serving.storage.vector_index import ItemIndex, SearchParams


class BuiltIndex(NamedTuple):
    """The index of a bundle that is being made."""

    files: list[Path]  # of its shards, in the bundle's folder
    search_params: SearchParams
    metrics: SearchMetrics
    manifest_entry: dict[str, Any]  # the manifest's `index`


def assemble_bundle(
    trained: TrainedRun,
    settings: DictConfig,
    root: Path,
    build_index: Callable[[Path], BuiltIndex],
    export_record: dict[str, Any],
    before_publish: Callable[[Path], None],
) -> Path:
    """Make, verify and publish a bundle in `root`; returns the folder of the new version.

    `settings` has `slate`, `ranked` and `verify` of configs/export.yaml. `index_in` makes the index in the
    folder that it is given; `notes` go into the manifest's `export`. `before_publishing` is called with that
    folder when all is verified. Raises ExportError for a bundle that fails a check; `current` then stays.
    """
    started = time.perf_counter()
    try:
        policy = SlatePolicy(**settings.slate)
        if policy.margin:
            impute_margins(item_margins(trained))
    except ValueError as error:
        raise ExportError(f"bundle.{error}") from error
    if settings.ranked is not None and settings.ranked < SLOTS:
        raise ExportError(f"bundle.ranked is {settings.ranked}: expected {SLOTS} or more, or null for all")
    trained.sources.max_candidates = settings.ranked
    with staging_folder(root) as folder:
        with timed_step("modules"):
            pipeline = lower_modules(trained.tower, trained.sources, trained.ranker)
            save_torchscript(pipeline, folder)
        with timed_step("index"):
            indexed = build_index(folder)
            index = ItemIndex(
                read_shards(indexed.files), trained.catalog.vectors.numpy(), indexed.search_params
            )
        with timed_step("items"):
            write_items(trained, folder)
            shutil.copy(trained.prepared.folder / "schema.json", folder)
        with timed_step("golden requests"):
            examples = sample_checkouts(trained, ("test", "validation"), settings.verify.checkouts)
            schema = trained.schema
            requests = to_checkouts(examples, item_ids(trained), schema.context, schema.profile)
            count = settings.verify.golden
            some = slice(0, 5 * count)  # the clearest fifth of these
            chosen = select_golden_requests(
                trained, pipeline, index, examples[some], requests[some], policy, count
            )
            write_arrow(chosen, folder / "golden.arrow")
        with timed_step("verification"):
            content = build_manifest(trained, folder, policy, indexed.manifest_entry, export_record)
            write_bundle_manifest(content, folder)
            with verification.open_bundle(folder) as recommender:
                parity = verification.measure_parity(trained, recommender, examples, requests)
            verification.check_limits(indexed.metrics, parity)
            content["export"] |= {
                "parity": asdict(parity),
                "seconds": round(time.perf_counter() - started, 1),
            }
            write_bundle_manifest(content, folder)
        before_publish(folder)
        target = publish(folder, root, content["version"])
    print(f"bundle: {target} {manifest_summary(content)}\n{time.perf_counter() - started:.1f} s", flush=True)
    return target


def manifest_summary(content: dict[str, Any]) -> str:
    """What a manifest says of sizes, index, parity and calibration, in lines."""
    sizes, index, parity = content["bytes"], content["index"], content["export"]["parity"]
    listed = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items())
    return (
        f"({sum(sizes.values()) / 1e6:.1f} MB: {listed}); {content['dims']['items'] - 1:,} items\n"
        f"index: {index['system']}, recall@{RECALL_AT} {index['recall']:.4f}, p50 {index['p50_ms']:.2f} ms, "
        f"p99 {index['p99_ms']:.2f} ms, {index['bytes_per_vector']:.1f} bytes per vector\n"
        f"parity over {parity['candidates']:,} candidates: p(click) {parity['click']:.1e}, "
        f"p(purchase) {parity['purchase']:.1e}, value {parity['value']:.1e} relative; "
        f"a request takes p50 {parity['p50_ms']:.1f} ms, p99 {parity['p99_ms']:.1f} ms\n"
        f"{_calibration_summary(content['calibration'])}"
    )


def _calibration_summary(found: dict[str, Any] | None) -> str:
    if found is None:
        return "calibration: unknown, for this run was not evaluated (python -m evaluation.evaluate RUN)"
    errors = {r["head"]: r["ece"] for r in found["slices"] if r["group"] == "all" and "ece" in r}
    listed = ", ".join(f"p({head}) {error:.4f}" for head, error in errors.items())
    return f"calibration error on the {found['split']} split, over the candidates: {listed}"


@contextmanager
def timed_step(name: str) -> Iterator[None]:
    """Says which step is under way and how long it took."""
    print(f"{name} ...", end="", flush=True)
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        print(" failed", flush=True)
        raise
    print(f" {time.perf_counter() - started:.1f} s", flush=True)
