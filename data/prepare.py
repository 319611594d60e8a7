"""Builds the prepared folder from raw files. The same input is prepared only once.

    prepare(cfg) → artifacts/prepared/<key>/

The key hashes the configuration, the bytes of the input files and the code that preparation imports, so that
any change of the result changes the folder.
"""

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data import feature_schema, summary
from data.clean_tables import CleanTables, read_clean_tables
from data.examples import (
    labels,
    snapshots,
    splits,
    user_histories,
    writer,
)
from data.examples.neighbour_tables import table_steps, write_neighbour_tables
from data.examples.outcome_counts import order_times, reject_too_few_outcomes
from data.examples.setting_warnings import split_warnings, table_warnings
from data.feature_schema import FeatureSchema
from data.inputs import PrepareInputs, filter_known_before, resolve_inputs, to_plain
from data.io import engine
from data.io.code_hash import code_hash
from data.io.folders import META_FILE, publish_folder
from data.io.remote_roots import is_complete, local_root, publish
from data.io.url_secrets import mask_secrets
from data.tables import contract, encoded_tables, item_vectors
from data.tables.encoded_tables import EncodedTables
from data.tables.title_vectors import encode_titles
from serving.table_files import TableFile

STEPS = (
    "hash", "read", "check", "encode", "features", "snapshots", *table_steps(),
    "examples", "user histories",
)  # fmt: skip
# keys of `data`: the place of the rows
UNHASHED_SETTINGS = ("root", "files", "url", "tables", "refresh", "forget")


def prepare(cfg: Mapping[str, Any]) -> Path:
    """The prepared folder of `cfg.data` and `cfg.features` below `cfg.paths.prepared`, built if missing.

    Shows its steps on stderr. Prints a line of counts, and a line that lists further columns, read and
    unread. Raises DataError for input or settings that cannot be used. A run that fails leaves nothing
    behind.
    """
    inputs = resolve_inputs(cfg)
    root = local_root(to_plain(cfg).get("paths", {}).get("prepared") or "artifacts/prepared")
    start = time.monotonic()
    with tqdm(total=len(STEPS), desc="prepare", unit="step", file=sys.stderr) as bar:
        _show_step(bar, "hash")
        fingerprint = inputs.hash_files()
        key = _key(inputs.key_settings(), inputs.features, fingerprint)
        folder = root / key
        if is_complete(folder, META_FILE):
            bar.set_postfix_str("reused")
            bar.update(len(STEPS) - bar.n)
            meta = json.loads((folder / META_FILE).read_text())
            _print_summary(f"prepared {folder} (reused)", meta)
            return folder
        with publish_folder(folder, META_FILE) as temporary:
            meta = _build(bar, inputs, temporary)
            meta |= {"key": key, "fingerprint": fingerprint, "seconds": round(time.monotonic() - start, 1)}
            (temporary / META_FILE).write_text(json.dumps(meta, indent=1))
        publish(folder, META_FILE)
        bar.update(len(STEPS) - bar.n)
    _print_summary(f"prepared {folder} in {meta['seconds']} s", meta)
    return folder


def prepared_key(cfg: Mapping[str, Any]) -> str:
    """The name of the folder that `prepare` returns. Raises DataError for settings that cannot be used."""
    inputs = resolve_inputs(cfg)
    return _key(inputs.key_settings(), inputs.features, inputs.hash_files())


def last_order_time(cfg: Mapping[str, Any]) -> int:
    """The time of the last order in Unix seconds. Reading it takes seconds, while preparation takes minutes.

    Raises DataError for input or settings that cannot be used.
    """
    inputs = resolve_inputs(cfg)
    data, source = inputs.data, inputs.source
    with tempfile.TemporaryDirectory() as scratch, engine.connect(inputs.engine, Path(scratch)) as con:
        raw = source.read_tables(con, data)["orders"]
        orders = contract.conform(raw, "orders", inputs.files["orders"])
        if inputs.forgotten:
            orders = orders.filter(~orders.user_id.isin(inputs.forgotten).fill_null(False))
        log_end = splits.parse_timestamp(data.get("until"), "until")
        if log_end is not None:
            orders = filter_known_before(orders, log_end)
        return int(con.execute(orders.ts.max()))


def _build(bar: tqdm, inputs: PrepareInputs, folder: Path) -> dict[str, Any]:
    """Write the files of the prepared folder. Return the content of meta.json."""
    data, horizon = inputs.data, str(inputs.data["horizon"])
    every_days = int(data["snapshots"]["every"])
    with engine.connect(inputs.engine, folder / "spill") as con:
        clean = read_clean_tables(con, inputs, partial(_show_step, bar))
        pq.write_table(clean.checked.rejected, folder / "rejected.parquet", compression="zstd")
        _show_step(bar, "encode")
        encoded = _encode(con, inputs, clean)
        assigned, bounds, split_counts = _assign_splits(con, encoded, data)
        _show_step(bar, "features")
        schema, items = feature_schema.build_schema_and_items(
            con, encoded, bounds.validation_start, inputs.features, clean.read.vectors
        )  # fmt: skip
        (folder / "schema.json").write_text(json.dumps(schema.to_json(), ensure_ascii=False))
        items = _append_content(items, inputs.files["items"], schema, folder.parent)
        pq.write_table(items, folder / "items.parquet", compression="zstd")
        _show_step(bar, "snapshots")
        dates = snapshots.snapshot_dates(encoded.start, encoded.end, every_days)
        snapshots.write_snapshots(con, encoded, dates, every_days, folder)
        first_example = int(con.execute(assigned.filter(assigned.split.isin(splits.SPLITS)).ts.min()))
        date_of = snapshots.neighbour_snapshots(dates, data["snapshots"], first_example)
        write_neighbour_tables(con, encoded, date_of, data["snapshots"], folder, partial(_show_step, bar))
        _show_step(bar, "examples")
        examples = writer.write_examples(con, encoded, assigned, schema, every_days, folder, inputs.outcomes)
        reject_too_few_outcomes(con, encoded, examples.with_purchase, split_counts, data)
        warnings = [
            *table_warnings(con, clean.tables, order_times(con, clean.tables["orders"]), horizon),
            *split_warnings(examples.with_purchase, data["split"]),
        ]
        _show_step(bar, "user histories")
        user_histories.write_user_histories(con, encoded, schema, folder)
        counts = {
            **_count_rows(con, encoded),
            **clean.counts(),
            "checkouts": split_counts,
            "checkouts_with_purchase": examples.with_purchase,
        }
    shutil.rmtree(folder / "spill", ignore_errors=True)
    return {
        "name": data["name"],
        "horizon": horizon,
        "counts": counts,
        "split": bounds._asdict(),
        "window": {"start": encoded.start, "end": encoded.end},
        "repeated_rows": clean.repeated_rows(),
        "snapshot_dates": dates,
        # The label `click` is a logged click, or a purchase in the candidate's leaf category.
        "click": "logged" if encoded.clicks_logged else "leaf_category_proxy",
        "impressions": examples.with_impressions,  # checkouts with logged impressions, by split
        "ghosts": examples.with_ghosts,  # checkouts whose slate was held back, by split
        "attribution": clean.read.join_counts,  # rows of an impression log by kind and join state, or null
        "labels": [spec.key for spec in inputs.outcomes.labels],  # further columns `outcome_<key>`
        "exclusion": inputs.outcomes.exclusion.settings,  # items that slates leave out: they have no outcome
        "labels_with_positive": examples.positives,  # label → split → (checkout, item) pairs
        "columns": summary.describe_columns(schema, clean.unread, clean.checked.unread_kinds),
        "warnings": [*clean.warnings, *warnings],
        "config": {"data": mask_secrets(data), "features": inputs.features},
    }


def _encode(con: ibis.BaseBackend, inputs: PrepareInputs, clean: CleanTables) -> EncodedTables:
    """The encoded tables. Returns are included if a label reads them."""
    reads_returns = any(spec.label == "return" for spec in inputs.outcomes.labels)
    encoded = encoded_tables.encode_tables(
        con, clean.tables, clean.checked.return_lines if reads_returns else None
    )
    labels.reject_proxy_clicks(inputs.outcomes.labels, encoded.clicks_logged)
    return encoded


def _append_content(items: pa.Table, file: TableFile, schema: FeatureSchema, cache_folder: Path) -> pa.Table:
    """Adds `content` to `items.parquet`: the vectors of each item side by side, lists [E] float32."""
    item_ids = items["item_id"].combine_chunks()
    # Items that the shop does not list have no row in the file, and so no vector of it.
    listed = item_vectors.read_unit_vectors(file, schema.listed_vectors, item_ids)
    content = np.concatenate([listed, encode_titles(items, schema.title_dim, cache_folder)], axis=1)
    return items.append_column("content", item_vectors.vector_lists(content))


def _assign_splits(
    con: ibis.BaseBackend, encoded: EncodedTables, data: dict[str, Any]
) -> tuple[ir.Table, splits.SplitBounds, dict[str, int]]:
    """Returns the checkouts with `horizon_end` and `split`, the bounds of the splits, and their counts."""
    horizon = str(data["horizon"])
    checkouts = splits.add_horizon_end(encoded, horizon)
    since = splits.parse_timestamp(data.get("since"), "since") or 0
    bounds = splits.split_bounds(con, encoded, checkouts, horizon, data["split"])
    assigned = splits.assign_splits(checkouts, bounds, encoded.end, since)
    assigned = engine.materialize(con, "split_checkouts", assigned)
    counts = splits.count_splits(con, assigned, bounds, encoded, horizon)
    assigned = splits.censor(con, assigned, bounds.test_start, encoded.end, horizon)
    return engine.materialize(con, "assigned", assigned), bounds, counts


def _count_rows(con: ibis.BaseBackend, encoded: EncodedTables) -> dict[str, int]:
    tables = {
        "orders": encoded.checkouts,
        "guest_orders": encoded.checkouts.filter(encoded.checkouts.is_guest),
        "lines": encoded.lines,
        "users": encoded.users,
        "items": encoded.items,
        "events": encoded.events,
        "unlisted_items": encoded.items.filter(~encoded.items.listed),
    }
    return {name: int(con.execute(table.count())) for name, table in tables.items()}


def _print_summary(title: str, meta: dict[str, Any]) -> None:
    print(f"{title}: {summary.summary(meta)}", flush=True)
    for line in (summary.column_summary(meta), *meta.get("warnings", [])):
        if line:
            print(line, flush=True)


def _show_step(bar: tqdm, name: str) -> None:
    bar.n = STEPS.index(name)
    bar.set_postfix_str(name)


def _key(data: dict[str, Any], feature_cfg: dict[str, Any], fingerprint: dict[str, str]) -> str:
    code = code_hash([__name__, f"data.sources.{data['name']}"])
    settings = {name: value for name, value in data.items() if name not in UNHASHED_SETTINGS}
    text = json.dumps([settings, feature_cfg, fingerprint, code], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
