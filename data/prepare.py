"""Raw files → the prepared folder (docs/architecture.md). Nothing is redone, nothing is stale.

    prepare(cfg) → artifacts/prepared/<key>/

The key hashes the configuration, the bytes of the input files and the code of this room, so that whatever
could change the result changes the folder.
"""

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow.parquet as pq
from tqdm import tqdm

from data import feature_schema
from data.errors import DataError
from data.examples import checkouts as examples
from data.examples import ease_neighbours, snapshots, splits, user_histories
from data.io import engine
from data.io.parquet import parquet_files
from data.tables import attribution, checks, coded_log, contract

READERS = ("completejourney", "simulated", "tables")
STEPS = (
    "hash", "read", "check", "code", "features", "snapshots", "neighbours", "ease", "examples",
    "store",
)  # fmt: skip
# What says where, not what: no part of the key, as the engine is none.
UNHASHED_SETTINGS = ("root",)

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data", "simulation")  # whose code decides what is prepared


def prepare(cfg: Mapping[str, Any]) -> Path:
    """The prepared folder of `cfg.data` and `cfg.features`, below `cfg.paths.prepared`; built if need be.

    Shows its steps on stderr and prints one line of summary. Raises DataError for input or settings that
    cannot be used. A run that fails leaves nothing behind.
    """
    config, source, read = _resolve_inputs(cfg)
    data, feature_cfg = config["data"], config["features"]
    root = Path(config.get("paths", {}).get("prepared") or "artifacts/prepared")
    started = time.monotonic()
    with tqdm(total=len(STEPS), desc="prepare", unit="step", file=sys.stderr) as bar:
        _step(bar, "hash")
        fingerprint = {name: _hash_files(paths) for name, paths in read.items()}
        key = _key(data, feature_cfg, fingerprint)
        folder = root / key
        if (folder / "meta.json").is_file():
            bar.set_postfix_str("reused")
            bar.update(len(STEPS) - bar.n)
            meta = json.loads((folder / "meta.json").read_text())
            print(f"prepared {folder} (reused): {_summary(meta)}", flush=True)
            return folder
        root.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
        try:
            meta = _build(bar, source, read, data, feature_cfg, config.get("prepare", {}), made)
            meta |= {"key": key, "fingerprint": fingerprint, "seconds": round(time.monotonic() - started, 1)}
            (made / "meta.json").write_text(json.dumps(meta, indent=1))
            made.chmod(0o755)  # mkdtemp keeps others out
            _publish(made, folder)
            bar.update(len(STEPS) - bar.n)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    print(f"prepared {folder}: {_summary(meta)}, {meta['seconds']} s", flush=True)
    return folder


def prepared_key(cfg: Mapping[str, Any]) -> str:
    """The name of the folder that `prepare` gives. Raises DataError for settings that cannot be used."""
    config, _, read = _resolve_inputs(cfg)
    return _key(
        config["data"], config["features"], {name: _hash_files(paths) for name, paths in read.items()}
    )


def last_order_time(cfg: Mapping[str, Any]) -> int:
    """When the log's last order was made (Unix seconds): in seconds, where to prepare it takes minutes.

    Raises DataError for input or settings that cannot be used.
    """
    config, source, _ = _resolve_inputs(cfg)
    data = config["data"]
    with (
        tempfile.TemporaryDirectory() as spill,
        engine.connect(config.get("prepare", {}), Path(spill)) as con,
    ):
        orders = contract.conform(
            source.read_tables(con, data)["orders"], "orders", str(source.table_files(data)["orders"])
        )
        until = splits.parse_timestamp(data.get("until"), "until")
        return int(con.execute((orders if until is None else filter_known_before(orders, until)).ts.max()))


def _resolve_inputs(cfg: Mapping[str, Any]) -> tuple[dict[str, Any], Any, dict[str, list[Path]]]:
    """Plain settings, the module of the source, and the files of each of its tables."""
    config = _to_plain(cfg)
    data = config["data"]
    if data["name"] not in READERS:
        raise DataError(f"data.name is '{data['name']}', expected one of {', '.join(READERS)}")
    _windows(data)
    source = import_module(f"data.sources.{data['name']}")
    return config, source, _inputs(source.table_files(data))


def _build(
    bar: tqdm,
    source: Any,
    inputs: dict[str, list[Path]],
    data: dict[str, Any],
    feature_cfg: dict[str, Any],
    machine: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Fills the folder `out` and gives the content of meta.json."""
    files = source.table_files(data)
    names = {name: str(path) for name, path in files.items()}
    with engine.connect(machine, out / "spill") as con:
        _step(bar, "read")
        raw = source.read_tables(con, data)
        conformed = {
            name: engine.materialize(con, f"canonical_{name}", contract.conform(t, name, names[name]))
            for name, t in raw.items()
        }
        until = splits.parse_timestamp(data.get("until"), "until")
        for name in ("orders", "events"):
            if until is not None and name in conformed:
                conformed[name] = filter_known_before(conformed[name], until)
        if _inputs(files) != inputs:
            raise DataError("files came or went while they were read; prepare again")
        attributed = None
        if "events" in raw and "request_id" in raw["events"].columns:
            conformed["events"], attributed = attribution.attribute_feedback(
                con, conformed["events"], conformed["orders"], *_windows(data)
            )
        _step(bar, "check")
        checked = checks.check_tables(con, conformed, names, data["bad_rows"])
        pq.write_table(checked.rejected, out / "rejected.parquet", compression="zstd")
        _step(bar, "code")
        coded = coded_log.encode_tables(con, checked.tables)
        horizon = str(data["horizon"])
        checkouts = splits.add_horizon_end(coded, horizon)
        since = splits.parse_timestamp(data.get("since"), "since") or 0
        at = splits.split_bounds(con, coded, checkouts, horizon, data["split"])
        assigned = engine.materialize(con, "assigned", splits.assign_splits(checkouts, at, coded.end, since))
        counts = splits.count_splits(con, assigned, at, coded, horizon)
        _step(bar, "features")
        schema, items = feature_schema.build_schema_and_items(con, coded, at.validation_start, feature_cfg)
        (out / "schema.json").write_text(json.dumps(schema.to_json(), ensure_ascii=False))
        pq.write_table(items, out / "items.parquet", compression="zstd")
        _step(bar, "snapshots")
        every = int(data["snapshots"]["every"])
        dates = snapshots.snapshot_dates(coded.start, coded.end, every)
        snapshots.write_snapshots(con, coded, dates, every, out)
        _step(bar, "neighbours")
        first = int(con.execute(assigned.filter(assigned.split.isin(splits.SPLITS)).ts.min()))
        carried = snapshots.neighbour_snapshots(dates, data["snapshots"], first)
        limits = data["snapshots"]
        paired = snapshots.copurchase_neighbours_by_date(
            con, coded, [*carried.values()], int(limits["neighbours"])
        )
        snapshots.write_neighbours(out / "neighbours.parquet", zip(carried, paired, strict=True))
        _step(bar, "ease")
        alike = (
            (snapshot, ease_neighbours.ease_neighbours(con, coded, date, schema.items + 1, limits))
            for snapshot, date in carried.items()
        )
        snapshots.write_neighbours(out / "ease_neighbours.parquet", alike)
        _step(bar, "examples")
        found = examples.write_examples(con, coded, assigned, schema, every, out)
        _step(bar, "store")
        user_histories.write_user_histories(con, coded, schema, out)
        meta = {
            "name": data["name"],
            "horizon": horizon,
            "counts": {
                "orders": int(con.execute(coded.checkouts.count())),
                "lines": int(con.execute(coded.lines.count())),
                "users": int(con.execute(coded.users.count())),
                "items": schema.items,
                "events": int(con.execute(coded.events.count())),
                "unlisted_items": int(con.execute(coded.items.filter(~coded.items.listed).count())),
                "returns": checked.returns,
                "rejected": checked.rejected.num_rows,
                "checkouts": counts,
                "checkouts_with_purchase": found["purchase"],
            },
            "split": at._asdict(),
            "window": {"start": coded.start, "end": coded.end},
            "snapshot_dates": dates,
            # What `click` means: a logged click, or a purchase in the candidate's leaf category.
            "click": "logged" if coded.clicks_logged else "leaf_category_proxy",
            "impressions": found["impressions"],  # checkouts with logged impressions, by split
            "attribution": attributed,  # rows of an impression log by kind and what became of them, or null
            "config": {"data": data, "features": feature_cfg},
        }
    shutil.rmtree(out / "spill", ignore_errors=True)
    return meta


def filter_known_before(rows: ir.Table, until: int) -> ir.Table:
    """Canonical rows that were there, and known, before an instant (Unix seconds)."""
    return rows.filter((rows.ts < until) & (rows.ingested_at.fill_null(0) < until))


def _step(bar: tqdm, name: str) -> None:
    bar.n = STEPS.index(name)
    bar.set_postfix_str(name)


def _publish(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not (folder / "meta.json").is_file():  # anything but another run that was faster
            raise


def _windows(data: dict[str, Any]) -> tuple[int, int | None]:
    """Seconds in which clicks and purchases count for an impression."""
    days = splits.horizon_days(str(data["horizon"]))
    clicks = attribution.window_seconds(data.get("click_window", "1d"))
    return clicks, None if days is None else days * splits.DAY


def _inputs(files: dict[str, Path]) -> dict[str, list[Path]]:
    """The files of each table: one, or those of a folder."""
    return {name: parquet_files(path) if path.is_dir() else [path] for name, path in files.items()}


def _hash_files(paths: list[Path]) -> str:
    if len(paths) == 1:
        return _hash_file(paths[0])
    return hashlib.blake2b("".join(map(_hash_file, paths)).encode(), digest_size=16).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _key(data: dict[str, Any], feature_cfg: dict[str, Any], fingerprint: dict[str, str]) -> str:
    code = {
        str(p.relative_to(ROOT)): _hash_file(p) for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))
    }
    what = {k: v for k, v in data.items() if k not in UNHASHED_SETTINGS}
    text = json.dumps([what, feature_cfg, fingerprint, code], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _to_plain(value: Any) -> Any:
    """A configuration as plain dicts and lists, whatever library it comes from."""
    if isinstance(value, Mapping):
        return {str(k): _to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "ListConfig":
        return [_to_plain(v) for v in value]
    return value.isoformat() if isinstance(value, date) else value  # some YAML readers make dates


def _summary(meta: dict[str, Any]) -> str:
    n = meta["counts"]
    c = n["checkouts"]
    left = [f"{n[k]:,} {k}" for k in ("returns", "rejected", "unlisted_items") if n[k]]
    return ", ".join(
        [
            f"{n['orders']:,} orders of {n['users']:,} users, {n['items']:,} items",
            f"{c['train']:,} train / {c['validation']:,} validation / {c['test']:,} test checkouts",
            f"{c['immature']:,} immature",
            f"{c['earlier'] + c['gap'] + c['later']:,} before, between or after the splits",
            *left,
            f"click: {meta['click']}",
        ]
    )
