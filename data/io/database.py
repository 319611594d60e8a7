"""Tables and queries of a database or of a lake, as streams of Arrow batches.

duckdb:///path/shop.duckdb                        a DuckDB file
delta:///path/lake, delta+s3://bucket/lake        a folder with a Delta table per name; queries by DuckDB
postgresql://user:password@host/database/schema   and any other backend of Ibis
"""

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa
import sqlglot
from ibis.common.exceptions import TableNotFound
from sqlglot import exp

from data.errors import DataError
from data.io.url_secrets import MASK, mask_message, mask_url

ANSI_CODES = re.compile(r"\x1b\[\d*m")
BATCH_ROWS = 50_000
# System schemas of DuckDB, which adds names of its catalog, and of PostgreSQL.
MISSING_IN_QUERY = re.compile(r'(?:Table with name |relation ")([^\s"!]+)"? does not exist')
CONNECT_SECONDS = 10
DELTA = "delta"
LOCAL_SCHEMES = ("duckdb", "sqlite")  # schemes of files, which drivers create if they are missing
IN_MEMORY = ("", ":memory:")
# become text in Arrow
TEXT_TYPES = (dt.UUID, dt.JSON, dt.INET, dt.MACADDR, dt.Interval, dt.GeoSpatial, dt.Unknown)


class MissingTableError(LookupError):
    """A table that the database does not have."""


class DuckDbSource:
    """A DuckDB file, or, with `lake`, the Delta tables below a folder or URI. Queries call them by name."""

    def __init__(self, con: duckdb.DuckDBPyConnection, lake: str = "", options: dict[str, str] | None = None):
        self._con, self._lake, self._options = con, lake, options

    def read_table(self, name: str) -> pa.RecordBatchReader:
        """The rows of a table. Raises MissingTableError."""
        if self._lake and not self._register(name):
            raise MissingTableError(name)
        table = exp.to_identifier(name, quoted=True) if self._lake else exp.to_table(name)
        try:
            return self._stream(f"SELECT * FROM {table.sql('duckdb', identify=True)}")
        except duckdb.CatalogException as error:
            raise MissingTableError(name) from error

    def run_query(self, query: str) -> pa.RecordBatchReader:
        """The rows of a SQL query."""
        if self._lake:
            for table in sqlglot.parse_one(query, read="duckdb").find_all(exp.Table):
                self._register(table.name)
        return self._stream(query)

    def table_names(self) -> list[str]:
        """The names of the tables and views."""
        if self._lake:
            folder = Path(self._lake)
            return sorted(p.parent.relative_to(folder).as_posix() for p in folder.glob("**/_delta_log"))
        rows = self._con.execute("SELECT table_schema, table_name FROM information_schema.tables").fetchall()
        return sorted(name if schema == "main" else f"{schema}.{name}" for schema, name in rows)

    def close(self) -> None:
        self._con.close()

    def _stream(self, query: str) -> pa.RecordBatchReader:
        # Not by Ibis 12: it calls functions that DuckDB 2.0 lacks, and holds the whole result in memory.
        rows = self._con.sql(query)
        if rows is None:
            raise ValueError("the query is not a SELECT: write a SELECT that returns the rows")
        return rows.to_arrow_reader(BATCH_ROWS)

    def _register(self, name: str) -> bool:
        """Register the Delta table of this name for queries. Return False if there is none."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            table = DeltaTable(f"{self._lake}/{name}", storage_options=self._options)
        except TableNotFoundError:
            return False
        # Its Parquet files have other names for the columns then; deltalake would read nulls.
        if (table.metadata().configuration or {}).get("delta.columnMapping.mode", "none") != "none":
            raise ValueError(
                f"the Delta table {name} uses column mapping, which deltalake cannot read: write the table "
                "without column mapping"
            )
        self._con.register(name, table.to_pyarrow_dataset())
        return True


class IbisSource:
    """A database for which Ibis has a backend."""

    def __init__(self, con: ibis.BaseBackend):
        self._con: Any = con

    def read_table(self, name: str) -> pa.RecordBatchReader:
        """The rows of a table, `name` or `schema.name`. Raises MissingTableError."""
        table = exp.to_table(name, dialect=self._con.dialect)
        schema = tuple(part for part in (table.catalog, table.db) if part)
        try:
            rows = self._con.table(table.name, database=schema or None)
        except TableNotFound as error:
            raise MissingTableError(name) from error
        return _with_arrow_types(rows).to_pyarrow_batches(chunk_size=BATCH_ROWS)

    def run_query(self, query: str) -> pa.RecordBatchReader:
        """The rows of a SQL query."""
        schema = self._postgres_schema(query) if self._con.name == "postgres" else None
        rows = self._con.sql(query, schema=schema)
        return _with_arrow_types(rows).to_pyarrow_batches(chunk_size=BATCH_ROWS)

    def _postgres_schema(self, query: str) -> ibis.Schema:
        """The columns of a query. Ibis would create a temporary view, which read-only servers refuse."""
        with self._con.con.transaction(), self._con.con.cursor() as cursor:
            cursor.execute(f"SELECT * FROM (\n{query}\n) AS rows LIMIT 0")
            columns = cursor.description
        mapper = self._con.compiler.type_mapper
        # psycopg has no names for types that the database declares, such as enums; their values are text.
        types = {
            c.name: "string" if c.type_display.isdigit() else mapper.from_string(c.type_display)
            for c in columns
        }
        if len(types) < len(columns):
            raise ValueError("two columns have the same name: rename one with AS")
        return ibis.schema(types)

    def table_names(self) -> list[str]:
        """The names of the tables and views of the connection's schema."""
        return list(self._con.list_tables())

    def close(self) -> None:
        self._con.disconnect()


Source = DuckDbSource | IbisSource


@contextlib.contextmanager
def connect(url: str) -> Iterator[Source]:
    """Connect to the database of a URL. Raises DataError, with a remedy, if that fails."""
    try:
        source = _open(url)
    except ImportError as error:
        scheme = urlsplit(url).scheme.partition("+")[0].replace("postgresql", "postgres")
        package = "deltalake" if scheme == DELTA else f"'ibis-framework[{scheme}]'"
        raise DataError(
            f"{mask_url(url)}: its driver is not installed: pip install -c requirements/lock.txt {package}"
        ) from error
    except Exception as error:  # each driver has its own exceptions
        if isinstance(error, DataError):
            raise
        hint = f": {MASK} stands for the password in a saved config" if MASK in url else ""
        raise DataError(
            f"{mask_url(url)}: no connection: {_reason(error, url)}. Check data.url{hint}"
        ) from error
    try:
        yield source
    finally:
        with contextlib.suppress(Exception):
            source.close()


def open_rows(source: Source, url: str, rows: str) -> pa.RecordBatchReader:
    """The rows of a table or query (`is_query`).

    Raises MissingTableError for a table that does not exist, and DataError for rows that cannot be read.
    """
    try:
        return source.run_query(rows) if is_query(rows) else source.read_table(rows)
    except (MissingTableError, DataError):
        raise
    except Exception as error:
        if (missing := MISSING_IN_QUERY.search(str(error))) is not None:
            raise DataError(
                f"{describe(url, rows)}: there is no table {missing[1]}.{_similar_tables(source, missing[1])}"
            ) from error
        raise read_error(error, url, rows) from error


def read_error(error: Exception, url: str, rows: str) -> DataError:
    """The error for rows that cannot be read, in one line."""
    reason = _reason(error, url)
    if type(error).__name__ == "DeltaProtocolError":
        reason += ". Write the table without these features, or as Parquet (data=tables)"
    return DataError(f"{describe(url, rows)}: cannot be read: {reason}")


def describe(url: str, rows: str) -> str:
    """Names a table or query in messages, with its database and the first words of a query."""
    text = " ".join(mask_url(rows).split())
    return f"{mask_url(url)}: {text if len(text) <= 80 else f'{text[:77]}...'}"


def missing_table_error(source: Source, url: str, canonical: str, name: str) -> DataError:
    """The error for a table that does not exist. The message suggests similar names."""
    return DataError(
        f"{mask_url(url)}: there is no table {name}; set data.tables.{canonical} to a table or a SELECT"
        f".{_similar_tables(source, name)}"
    )


def _similar_tables(source: Source, name: str) -> str:
    """A sentence with similar table names, or with the first tables. "" if no table is known."""
    names: Sequence[str] = ()
    with contextlib.suppress(Exception):  # not every account may list tables
        names = source.table_names()
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:8]
    return f" Found: {', '.join(similar)}" if similar else ""


def is_query(rows: str) -> bool:
    """Whether a setting is a SQL query. Otherwise it is the name of a table."""
    return len(rows.split()) > 1


def _with_arrow_types(rows: ir.Table) -> ir.Table:
    """The rows, in which types that Arrow lacks become text, and numbers of any precision become doubles."""
    values: dict[str, ir.Value] = {}
    for name, kind in rows.schema().items():
        if kind.is_decimal() and kind.precision is None:
            values[name] = rows[name].cast("float64")
        elif isinstance(kind, TEXT_TYPES):
            values[name] = rows[name].cast("string")
    return rows.mutate(**values) if values else rows


def _open(url: str) -> Source:
    parts = urlsplit(url)
    scheme, _, store = parts.scheme.partition("+")
    if scheme == DELTA:
        import deltalake  # noqa: F401 - where it is missing, say so at once

        folder = f"{parts.netloc}{parts.path}".rstrip("/")
        if not store and not Path(folder).is_dir():
            raise DataError(f"{mask_url(url)}: there is no folder {folder}; correct data.url")
        lake = f"{store}://{folder}" if store else folder
        return DuckDbSource(duckdb.connect(), lake, dict(parse_qsl(parts.query)))
    if scheme in LOCAL_SCHEMES:
        file = f"{parts.netloc}{parts.path}"
        is_file = file not in IN_MEMORY and not file.startswith(("md:", "motherduck:"))
        if is_file and not Path(file).is_file():
            raise DataError(f"{mask_url(url)}: there is no file {file}; correct data.url")
        if scheme == "duckdb":
            options: dict[str, Any] = dict(parse_qsl(parts.query))
            return DuckDbSource(duckdb.connect(file or ":memory:", read_only=is_file, config=options))
    if scheme in ("postgresql", "postgres"):
        timeout = {} if "connect_timeout=" in parts.query else {"connect_timeout": CONNECT_SECONDS}
        return IbisSource(ibis.connect(url, **timeout))
    if not parts.scheme:
        raise DataError(f"data.url={url}: expected a URL, such as postgresql://user@host/shop")
    return IbisSource(ibis.connect(url))


def _reason(error: Exception, url: str) -> str:
    """The message of a driver's error: one line of at most 300 characters, without secrets."""
    text = " ".join(ANSI_CODES.sub("", str(error)).split()) or type(error).__name__
    return mask_message(text, url)[:300]
