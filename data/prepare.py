"""Raw files → the prepared folder (docs/architecture.md), built once for the same input.

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
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq
from tqdm import tqdm

from data import feature_schema
from data.errors import DataError
from data.examples import (
    copurchase_neighbours,
    ease_neighbours,
    snapshots,
    splits,
    user_histories,
    writer,
)
from data.io import engine
from data.io.code_hash import code_hash
from data.io.folders import publish_folder
from data.io.parquet import parquet_files
from data.tables import attribution, checks, contract, encoded_tables
from data.tables.encoded_tables import EncodedTables
from models.schema import SECONDS_PER_DAY

READERS = ("completejourney", "simulated", "tables")  # modules of data/sources
STEPS = (
    "hash", "read", "check", "encode", "features", "snapshots", "copurchase neighbours", "EASE neighbours",
    "examples", "user histories",
)  # fmt: skip
UNHASHED_SETTINGS = ("root",)  # of `data`: where the files are does not change the result
RANKER_SETTINGS = ("drop", "blocks")  # of `features`: preparation does not read them
META_FILE = "meta.json"  # marks a complete folder


@dataclass(frozen=True)
class PrepareInputs:
    """Plain settings, and the files that are read."""

    data: dict[str, Any]
    features: dict[str, Any]
    engine: dict[str, Any]  # of `cfg.prepare`
    source: Any  # module of data/sources
    files: dict[str, list[Path]]  # canonical table → its files

    def hash_files(self) -> dict[str, str]:
        """Canonical table → hash of its content."""
        return {name: _hash_files(paths) for name, paths in self.files.items()}


def prepare(cfg: Mapping[str, Any]) -> Path:
    """The prepared folder of `cfg.data` and `cfg.features` below `cfg.paths.prepared`, built if missing.

    Shows its steps on stderr and prints one line of summary. Raises DataError for input or settings that
    cannot be used. A run that fails leaves nothing behind.
    """
    inputs = _resolve_inputs(cfg)
    root = Path(_to_plain(cfg).get("paths", {}).get("prepared") or "artifacts/prepared")
    start = time.monotonic()
    with tqdm(total=len(STEPS), desc="prepare", unit="step", file=sys.stderr) as bar:
        _show_step(bar, "hash")
        fingerprint = inputs.hash_files()
        key = _key(inputs.data, inputs.features, fingerprint)
        folder = root / key
        if (folder / META_FILE).is_file():
            bar.set_postfix_str("reused")
            bar.update(len(STEPS) - bar.n)
            meta = json.loads((folder / META_FILE).read_text())
            print(f"prepared {folder} (reused): {_summary(meta)}", flush=True)
            return folder
        with publish_folder(folder, META_FILE) as temporary:
            meta = _build(bar, inputs, temporary)
            meta |= {"key": key, "fingerprint": fingerprint, "seconds": round(time.monotonic() - start, 1)}
            (temporary / META_FILE).write_text(json.dumps(meta, indent=1))
        bar.update(len(STEPS) - bar.n)
    print(f"prepared {folder}: {_summary(meta)}, {meta['seconds']} s", flush=True)
    return folder


def prepared_key(cfg: Mapping[str, Any]) -> str:
    """The name of the folder that `prepare` returns. Raises DataError for settings that cannot be used."""
    inputs = _resolve_inputs(cfg)
    return _key(inputs.data, inputs.features, inputs.hash_files())


def last_order_time(cfg: Mapping[str, Any]) -> int:
    """Unix seconds of the last order: takes seconds, where preparation takes minutes.

    Raises DataError for input or settings that cannot be used.
    """
    inputs = _resolve_inputs(cfg)
    data, source = inputs.data, inputs.source
    with tempfile.TemporaryDirectory() as scratch, engine.connect(inputs.engine, Path(scratch)) as con:
        raw, file = source.read_tables(con, data)["orders"], str(source.table_files(data)["orders"])
        orders = contract.conform(raw, "orders", file)
        log_end = splits.parse_timestamp(data.get("until"), "until")
        if log_end is not None:
            orders = filter_known_before(orders, log_end)
        return int(con.execute(orders.ts.max()))


def filter_known_before(rows: ir.Table, ts: int) -> ir.Table:
    """Canonical rows that happened and were ingested before a time (Unix seconds)."""
    return rows.filter((rows.ts < ts) & (rows.ingested_at.fill_null(0) < ts))


def _resolve_inputs(cfg: Mapping[str, Any]) -> PrepareInputs:
    config = _to_plain(cfg)
    data = config["data"]
    if data["name"] not in READERS:
        raise DataError(f"data.name is '{data['name']}', expected one of {', '.join(READERS)}")
    _attribution_windows(data)
    source = import_module(f"data.sources.{data['name']}")
    files = _list_files(source.table_files(data))
    features = {name: value for name, value in config["features"].items() if name not in RANKER_SETTINGS}
    return PrepareInputs(data, features, config.get("prepare", {}), source, files)


def _build(bar: tqdm, inputs: PrepareInputs, folder: Path) -> dict[str, Any]:
    """Write the files of the prepared folder; returns the content of meta.json."""
    data, horizon = inputs.data, str(inputs.data["horizon"])
    every_days = int(data["snapshots"]["every"])
    with engine.connect(inputs.engine, folder / "spill") as con:
        _show_step(bar, "read")
        tables, join_counts = _read_tables(con, inputs)
        _show_step(bar, "check")
        names = {name: str(path) for name, path in inputs.source.table_files(data).items()}
        checked = checks.check_tables(con, tables, names, data["bad_rows"])
        pq.write_table(checked.rejected, folder / "rejected.parquet", compression="zstd")
        _show_step(bar, "encode")
        encoded = encoded_tables.encode_tables(con, checked.tables)
        assigned, bounds = _assign_splits(con, encoded, data)
        split_counts = splits.count_splits(con, assigned, bounds, encoded, horizon)
        _show_step(bar, "features")
        schema, items = feature_schema.build_schema_and_items(
            con, encoded, bounds.validation_start, inputs.features
        )  # fmt: skip
        (folder / "schema.json").write_text(json.dumps(schema.to_json(), ensure_ascii=False))
        pq.write_table(items, folder / "items.parquet", compression="zstd")
        _show_step(bar, "snapshots")
        dates = snapshots.snapshot_dates(encoded.start, encoded.end, every_days)
        snapshots.write_snapshots(con, encoded, dates, every_days, folder)
        first_example = int(con.execute(assigned.filter(assigned.split.isin(splits.SPLITS)).ts.min()))
        date_of = snapshots.neighbour_snapshots(dates, data["snapshots"], first_example)
        _write_neighbours(bar, con, encoded, date_of, data["snapshots"], folder)
        _show_step(bar, "examples")
        examples = writer.write_examples(con, encoded, assigned, schema, every_days, folder)
        _show_step(bar, "user histories")
        user_histories.write_user_histories(con, encoded, schema, folder)
        counts = {
            **_count_rows(con, encoded),
            "returns": checked.returns,
            "rejected": checked.rejected.num_rows,
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
        "snapshot_dates": dates,
        # The label `click` is a logged click, or a purchase in the candidate's leaf category.
        "click": "logged" if encoded.clicks_logged else "leaf_category_proxy",
        "impressions": examples.with_impressions,  # checkouts with logged impressions, by split
        "attribution": join_counts,  # rows of an impression log by kind and join state, or null
        "config": {"data": data, "features": inputs.features},
    }


def _read_tables(
    con: ibis.BaseBackend, inputs: PrepareInputs
) -> tuple[dict[str, ir.Table], dict[str, dict[str, int]] | None]:
    """The conformed tables, feedback attributed; and the rows of an impression log by kind and join state."""
    data, source = inputs.data, inputs.source
    files = source.table_files(data)
    raw = source.read_tables(con, data)
    tables = {
        name: engine.materialize(con, f"canonical_{name}", contract.conform(t, name, str(files[name])))
        for name, t in raw.items()
    }
    log_end = splits.parse_timestamp(data.get("until"), "until")
    for name in ("orders", "events"):
        if log_end is not None and name in tables:
            tables[name] = filter_known_before(tables[name], log_end)
    if _list_files(files) != inputs.files:
        raise DataError("input files changed while they were read; prepare again")
    if "events" not in raw or "request_id" not in raw["events"].columns:
        return tables, None
    tables["events"], join_counts = attribution.attribute_feedback(
        con, tables["events"], tables["orders"], *_attribution_windows(data)
    )
    return tables, join_counts


def _assign_splits(
    con: ibis.BaseBackend, encoded: EncodedTables, data: dict[str, Any]
) -> tuple[ir.Table, splits.SplitBounds]:
    """The checkouts with `horizon_end` and `split`, and the bounds of the splits."""
    horizon = str(data["horizon"])
    checkouts = splits.add_horizon_end(encoded, horizon)
    since = splits.parse_timestamp(data.get("since"), "since") or 0
    bounds = splits.split_bounds(con, encoded, checkouts, horizon, data["split"])
    assigned = splits.assign_splits(checkouts, bounds, encoded.end, since)
    return engine.materialize(con, "assigned", assigned), bounds


def _write_neighbours(
    bar: tqdm,
    con: ibis.BaseBackend,
    encoded: EncodedTables,
    date_of: dict[int, int],
    cfg: dict[str, Any],
    folder: Path,
) -> None:
    """Write both files of neighbours. `date_of` maps snapshots to dates, `cfg` is `data.snapshots`."""
    _show_step(bar, "copurchase neighbours")
    by_date = copurchase_neighbours.copurchase_neighbours_by_date(
        con, encoded, [*date_of.values()], int(cfg["neighbours"])
    )
    file = folder / "copurchase_neighbours.parquet"
    snapshots.write_neighbours(file, zip(date_of, by_date, strict=True))
    _show_step(bar, "EASE neighbours")
    rows = int(con.execute(encoded.items.count())) + 1
    by_snapshot = (
        (snapshot, ease_neighbours.ease_neighbours(con, encoded, date, rows, cfg))
        for snapshot, date in date_of.items()
    )
    snapshots.write_neighbours(folder / "ease_neighbours.parquet", by_snapshot)


def _count_rows(con: ibis.BaseBackend, encoded: EncodedTables) -> dict[str, int]:
    tables = {
        "orders": encoded.checkouts,
        "lines": encoded.lines,
        "users": encoded.users,
        "items": encoded.items,
        "events": encoded.events,
        "unlisted_items": encoded.items.filter(~encoded.items.listed),
    }
    return {name: int(con.execute(table.count())) for name, table in tables.items()}


def _show_step(bar: tqdm, name: str) -> None:
    bar.n = STEPS.index(name)
    bar.set_postfix_str(name)


def _attribution_windows(data: dict[str, Any]) -> tuple[int, int | None]:
    """Seconds after an impression in which clicks and purchases count."""
    days = splits.horizon_days(str(data["horizon"]))
    click_window = attribution.window_seconds(data.get("click_window", "1d"))
    return click_window, None if days is None else days * SECONDS_PER_DAY


def _list_files(paths: dict[str, Path]) -> dict[str, list[Path]]:
    """Canonical table → its file, or the files of its folder."""
    return {name: parquet_files(path) if path.is_dir() else [path] for name, path in paths.items()}


def _hash_files(paths: list[Path]) -> str:
    if len(paths) == 1:
        return _hash_file(paths[0])
    return hashlib.blake2b("".join(map(_hash_file, paths)).encode(), digest_size=16).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _key(data: dict[str, Any], feature_cfg: dict[str, Any], fingerprint: dict[str, str]) -> str:
    code = code_hash([__name__, f"data.sources.{data['name']}"])
    settings = {name: value for name, value in data.items() if name not in UNHASHED_SETTINGS}
    text = json.dumps([settings, feature_cfg, fingerprint, code], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _to_plain(value: Any) -> Any:
    """A configuration as plain dicts and lists, whatever library it comes from."""
    if isinstance(value, Mapping):
        return {str(k): _to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "ListConfig":
        return [_to_plain(v) for v in value]
    return value.isoformat() if isinstance(value, date) else value  # some YAML readers make dates


def _summary(meta: dict[str, Any]) -> str:
    counts = meta["counts"]
    n = counts["checkouts"]
    excluded = [f"{counts[k]:,} {k}" for k in ("returns", "rejected", "unlisted_items") if counts[k]]
    return ", ".join(
        [
            f"{counts['orders']:,} orders of {counts['users']:,} users, {counts['items']:,} items",
            f"{n['train']:,} train / {n['validation']:,} validation / {n['test']:,} test checkouts",
            f"{n['immature']:,} immature",
            f"{n['earlier'] + n['gap'] + n['later']:,} before, between or after the splits",
            *excluded,
            f"click: {meta['click']}",
        ]
    )
