"""A shop's tables in a database or a lake: each is a table or a SQL query (docs/how_to/read_a_database.md).

One command reads the database once: every table is copied to sorted Parquet, and is a file from then on.
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
    """Canonical table → the copy of its rows, sorted by time and then by all columns.

    Raises DataError for a database that cannot be reached, and for tables that are missing or cannot be read;
    it names all of them.
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
    """The canonical tables that exist, raw, with `_row`."""
    return read_files(con, table_files(cfg))


class _Copy(NamedTuple):
    path: Path
    label: str  # how messages name the table


@cache  # all steps of a command see the same rows, whatever the shop sells meanwhile
def _copy_tables(request: str, root: Path, refresh: bool) -> dict[str, _Copy]:
    """Canonical table → its copy: of the rows that the database has now, or where `refresh` is off and the
    last command left all copies, of those that it had then."""
    settings = json.loads(request)
    key = json.dumps(settings | {"url": mask_url(settings["url"])})
    folder = root / hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    if not refresh and (last := _last_copies(folder)):
        return last
    copies: dict[str, _Copy] = {}
    errors: list[str] = []
    paths: dict[str, Path] = {}  # canonical tables of one query share its copy, as those of one file do
    with database.connect(settings["url"]) as source:
        # Orders first: the items that a live shop lists after that are all that they name.
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
    """The copy of a canonical table's rows; None for an optional one that does not exist."""
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
    except Exception as error:  # rows come while they are written, and each driver has its own kinds
        raise database.read_error(error, url, rows) from error


def _last_copies(folder: Path) -> dict[str, _Copy]:
    """The copies that the last command left; empty where one is gone."""
    if not (folder / COPIES_FILE).is_file():
        return {}
    saved = json.loads((folder / COPIES_FILE).read_text())
    copies = {name: _Copy(folder / file, label) for name, (file, label) in saved.items()}
    return copies if all(copy.path.is_file() for copy in copies.values()) else {}
