"""Reads a shop's tables from a database or a lake.

Each is a table of the database, or the result of a SQL query.

A command reads the database once: every table is copied to a sorted Parquet file, and later steps read that
file.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.io import database
from data.io.table_copies import write_copy
from data.io.url_secrets import mask_url
from data.sources.tables import REQUIRED, map_columns, read_files, reject_unknown_tables
from data.tables.contract import TABLES
from serving.files import write_json
from serving.table_files import TableFile

CACHE = Path("artifacts/warehouse")
COPIES_FILE = "tables.json"  # canonical table → its copy; written last


def table_files(cfg: Mapping[str, Any]) -> dict[str, TableFile]:
    """Returns canonical table → the copy of its rows, sorted by time and then by all columns.

    Raises one DataError for a database that cannot be reached, or for all tables that are missing or cannot
    be read.
    """
    url, tables, columns = cfg.get("url"), cfg.get("tables") or {}, cfg.get("columns") or {}
    if not url:
        raise DataError(
            "data.url is not set: give the database or lake, such as data.url=postgresql://user@host/shop"
        )
    reject_unknown_tables(tables, "tables")
    reject_unknown_tables(columns, "columns")
    mappings = {name: map_columns(name, columns.get(name) or {}) for name in TABLES}
    times = sorted({mapping.columns.get("ts", "ts") for mapping in mappings.values()})
    wanted = {name: str(tables.get(name) or "").strip().rstrip(";") for name in TABLES}
    request = json.dumps({"url": str(url), "tables": wanted, "times": times})
    copies = _copy_tables(request, CACHE.resolve(), bool(cfg.get("refresh", True)))
    return {
        name: TableFile(
            path=copy.path,
            files=(copy.path,),
            columns=mappings[name].columns,
            integers=mappings[name].integers,
            label=copy.label,
        )
        for name, copy in copies.items()
    }


def read_tables(con: ibis.BaseBackend, cfg: Mapping[str, Any]) -> dict[str, ir.Table]:
    """Reads the canonical tables that exist, raw, with `_row`."""
    return read_files(con, table_files(cfg))


class _Copy(NamedTuple):
    path: Path
    label: str  # how messages name the table


@cache  # all steps of a command read the same rows, although the shop goes on selling
def _copy_tables(request: str, root: Path, refresh: bool) -> dict[str, _Copy]:
    """Returns canonical table → the copy of its current rows.

    If `refresh` is off and the last command left all copies, those copies are used.
    """
    settings = json.loads(request)
    key = json.dumps(settings | {"url": mask_url(settings["url"])})
    folder = root / hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    if not refresh and (last := _last_copies(folder)):
        return last
    copies: dict[str, _Copy] = {}
    errors: list[str] = []
    paths: dict[str, Path] = {}  # canonical tables from one query share a copy
    with database.connect(settings["url"]) as source:
        # Orders first: items that are read later include all items that these orders name.
        for name, given in settings["tables"].items():
            rows = given or name
            try:
                path = paths.get(rows) or _copy_rows(source, settings, name, folder)
            except DataError as error:
                errors.append(str(error))
                continue
            if path is not None:
                paths[rows] = path
                copies[name] = _Copy(path, database.describe(settings["url"], rows))
    if errors:
        raise DataError("\n".join(errors))
    write_json(folder / COPIES_FILE, {name: [copy.path.name, copy.label] for name, copy in copies.items()})
    return copies


def _copy_rows(source: database.Source, settings: dict[str, Any], name: str, folder: Path) -> Path | None:
    """Copy the rows of a canonical table. Return None for an optional table that does not exist."""
    url, given = settings["url"], settings["tables"][name]
    rows = given or name
    try:
        return write_copy(database.open_rows(source, url, rows), folder, name, settings["times"])
    except database.MissingTableError as error:
        if given or name in REQUIRED:
            raise database.missing_table_error(source, url, name, rows) from error
        return None
    except DataError:
        raise
    except Exception as error:  # rows are read while they are written, and each driver has its own exceptions
        raise database.read_error(error, url, rows) from error


def _last_copies(folder: Path) -> dict[str, _Copy]:
    """The copies that the last command left. Empty if one of them is missing."""
    if not (folder / COPIES_FILE).is_file():
        return {}
    saved = json.loads((folder / COPIES_FILE).read_text())
    copies = {name: _Copy(folder / file, label) for name, (file, label) in saved.items()}
    return copies if all(copy.path.is_file() for copy in copies.values()) else {}
