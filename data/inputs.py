"""Inputs of preparation: its settings, the files of the shop, and their tables."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.examples import labels, splits
from data.examples.exclusion import read_exclusion
from data.examples.outcomes import OutcomeSpec
from data.io import engine
from data.tables import (
    attribution,
    column_selection,
    contract,
    forgotten_users,
    item_vectors,
    title_vectors,
)
from data.tables.headers import check_headers
from data.tables.item_vectors import VectorColumn
from models.constants import SECONDS_PER_DAY
from serving.table_files import TableFile

READERS = ("completejourney", "simulated", "tables", "warehouse")  # modules of data/sources
RANKER_SETTINGS = ("drop", "blocks", "relative", "scores")  # keys of `features`, not read by preparation


@dataclass(frozen=True)
class PrepareInputs:
    """The inputs of preparation: plain settings, and the files that are read."""

    data: dict[str, Any]
    features: dict[str, Any]
    engine: dict[str, Any]  # of `cfg.prepare`
    source: Any  # module of data/sources
    files: dict[str, TableFile]  # canonical table → its file or folder
    outcomes: OutcomeSpec  # the further labels of the tasks, and the exclusion of slates
    forgotten: list[str]  # ids of the users that are dropped (`data.forget`)

    @property
    def ignored_columns(self) -> list[str]:
        return list(self.features.get("ignore_columns") or [])

    @property
    def event_kinds(self) -> list[str]:
        """The kinds of events that are read."""
        return list(dict.fromkeys([*contract.EVENT_KINDS, *labels.label_event_kinds(self.outcomes.labels)]))

    def key_settings(self) -> dict[str, Any]:
        """The settings that change the result.

        They are `data`, further labels, slate exclusions and forgotten users.
        """
        named: dict[str, Any] = {}
        if self.outcomes.labels:
            named["labels"] = [list(spec) for spec in self.outcomes.labels]
        if self.forgotten:
            named["forgotten"] = self.forgotten
        return self.data | named | {"exclusion": self.outcomes.exclusion.settings}

    def hash_files(self) -> dict[str, str]:
        """Returns canonical table → hash of its content."""
        return {name: _hash_files(table_file.files) for name, table_file in self.files.items()}


class ReadTables(NamedTuple):
    """The tables of the files."""

    raw: dict[str, ir.Table]
    conformed: dict[str, ir.Table]  # canonical; feedback in events is attributed
    join_counts: dict[str, dict[str, int]] | None  # rows of an impression log by kind and join state
    vectors: list[VectorColumn]  # vector columns of items
    unread_vectors: dict[str, str]  # column → why it is not read
    n_forgotten: int  # rows of users that `data.forget` names


def resolve_inputs(cfg: Mapping[str, Any]) -> PrepareInputs:
    """The settings and files of a config. Raises DataError for settings that cannot be used."""
    config = to_plain(cfg)
    data = config["data"]
    if data["name"] not in READERS:
        raise DataError(f"data.name is '{data['name']}', expected one of {', '.join(READERS)}")
    _attribution_windows(data)
    if (impressions := data.get("impressions", "served")) not in ("served", "viewed"):
        raise DataError(f"data.impressions is '{impressions}', expected served or viewed")
    source = import_module(f"data.sources.{data['name']}")
    files = source.table_files(data)
    features = {name: value for name, value in config["features"].items() if name not in RANKER_SETTINGS}
    title_vectors.title_dim(features)  # raises at once if the packages of the title model are missing
    outcomes = OutcomeSpec(labels.wanted_labels(config), read_exclusion(config.get("slate")))
    forgotten = forgotten_users.forgotten_users(data.get("forget"))
    return PrepareInputs(data, features, config.get("prepare", {}), source, files, outcomes, forgotten)


def read_headers(cfg: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """Returns canonical table → its columns, from the headers of a shop's files. None for other sources.

    Raises DataError for files and columns that are missing.
    """
    data = to_plain(cfg)["data"]
    if data["name"] != "tables":
        return None
    return check_headers(import_module("data.sources.tables").table_files(data))


def read_tables(con: ibis.BaseBackend, inputs: PrepareInputs) -> ReadTables:
    """The tables of the files, checked for their columns. Raises DataError for files that cannot be used."""
    data, source = inputs.data, inputs.source
    files = inputs.files
    raw = source.read_tables(con, data)
    vector_names = item_vectors.vector_column_names(files["items"])
    all_columns = {name: list(table.columns) for name, table in raw.items()}
    all_columns["items"] += vector_names
    column_selection.reject_unknown_columns(all_columns, inputs.ignored_columns)
    tables = {
        name: engine.materialize(con, f"canonical_{name}", table)
        for name, table in _conform_all(raw, files).items()
    }
    ignored = column_selection.ignored_columns("items", vector_names, inputs.ignored_columns)
    read_names = [name for name in vector_names if name not in ignored]
    vectors = item_vectors.check_vectors(files["items"], read_names)
    log_end = splits.parse_timestamp(data.get("until"), "until")
    for name in ("orders", "events"):
        if log_end is not None and name in tables:
            tables[name] = filter_known_before(tables[name], log_end)
    tables, n_forgotten = forgotten_users.drop_users(con, tables, inputs.forgotten)
    if source.table_files(data) != files:
        raise DataError("the input files changed during preparation: run the command again")
    join_counts = None
    if "events" in raw and "request_id" in raw["events"].columns:
        tables["events"], join_counts = _attribute_feedback(con, tables, inputs)
    unread = dict.fromkeys(ignored, column_selection.IGNORED)
    unread |= dict.fromkeys(set(read_names) - {v.name for v in vectors}, column_selection.EMPTY)
    return ReadTables(raw, tables, join_counts, vectors, unread, n_forgotten)


def _conform_all(raw: dict[str, ir.Table], files: dict[str, TableFile]) -> dict[str, ir.Table]:
    """Gives the tables canonical types. Raises one DataError that lists the faults of all tables."""
    tables: dict[str, ir.Table] = {}
    errors: list[str] = []
    for name, table in raw.items():
        try:
            tables[name] = contract.conform(table, name, files[name])
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError("\n".join(errors))
    return tables


def _attribute_feedback(
    con: ibis.BaseBackend, tables: dict[str, ir.Table], inputs: PrepareInputs
) -> tuple[ir.Table, dict[str, dict[str, int]]]:
    """Joins the events of an impression log. Returns the events, and row counts by kind and join state."""
    click_window, purchase_window = _attribution_windows(inputs.data)
    labels.reject_late_clicks(inputs.outcomes.labels, click_window, inputs.data)
    events = tables["events"]
    if inputs.data.get("impressions", "served") == "viewed":
        events = engine.materialize(con, "viewed_events", attribution.keep_viewed_slates(events))
    return attribution.attribute_feedback(
        con,
        events,
        tables["orders"],
        click_window,
        purchase_window,
        labels.feedback_windows(inputs.outcomes.labels, click_window),
    )


def filter_known_before(rows: ir.Table, ts: int) -> ir.Table:
    """Canonical rows that happened and were ingested before a time (Unix seconds)."""
    return rows.filter((rows.ts < ts) & (rows.ingested_at.fill_null(0) < ts))


def _attribution_windows(data: dict[str, Any]) -> tuple[int, int | None]:
    """Seconds after an impression in which clicks and purchases count."""
    days = splits.horizon_days(str(data["horizon"]))
    click_window = attribution.window_seconds(data.get("click_window", "1d"))
    return click_window, None if days is None else days * SECONDS_PER_DAY


def to_plain(value: Any) -> Any:
    """A configuration as plain dicts and lists, whatever library it comes from."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "ListConfig":
        return [to_plain(v) for v in value]
    return value.isoformat() if isinstance(value, date) else value  # some YAML readers make dates


def _hash_files(paths: Sequence[Path]) -> str:
    if len(paths) == 1:
        return _hash_file(paths[0])
    return hashlib.blake2b("".join(map(_hash_file, paths)).encode(), digest_size=16).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
