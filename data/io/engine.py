"""The engine that runs the expressions of preparation: DuckDB on one machine, Spark beyond.

    python train.py prepare.engine=spark prepare.master=spark://host:7077

What differs between the two stands here; every other module of this room writes Ibis expressions for both.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.io.parquet import parquet_files

ENGINES = ("duckdb", "spark")
DEFAULTS = {"engine": "duckdb", "memory_limit": "4GB", "threads": None, "master": "local[*]"}


@contextmanager
def connect(cfg: Mapping[str, Any], scratch: Path) -> Iterator[ibis.BaseBackend]:
    """A connection to the engine of the `prepare` config, which keeps what it must below `scratch`.

    Raises DataError for an engine that is unknown or not installed.
    """
    cfg = {**DEFAULTS, **cfg}
    if cfg["engine"] not in ENGINES:
        raise DataError(f"prepare.engine is '{cfg['engine']}', expected one of {', '.join(ENGINES)}")
    scratch.mkdir(parents=True, exist_ok=True)
    opened = _spark(cfg, scratch) if cfg["engine"] == "spark" else _duckdb(cfg, scratch)
    try:
        yield opened
    finally:
        opened.disconnect()


def _duckdb(cfg: Mapping[str, Any], scratch: Path) -> ibis.BaseBackend:
    con = ibis.duckdb.connect(
        memory_limit=cfg["memory_limit"],
        threads=cfg["threads"] or os.cpu_count() or 1,
        temp_directory=str(scratch),
    )
    # DuckDB 2.0 answers `row_number() - 1 < n` with n - 1 rows per group where a query reads it twice: the
    # filter is taken into the common table, and then this rewrite counts the one too many off once more.
    con.raw_sql("SET disabled_optimizers = 'top_n_window_elimination'")
    try:
        # Zoned times are read in the session's zone where DuckDB has its ICU extension, and in UTC
        # where it has not; then this setting is unknown to it.
        con.raw_sql("SET TimeZone = 'UTC'")
    except Exception as error:
        if "icu" not in str(error).lower():
            raise
    return con


def _spark(cfg: Mapping[str, Any], scratch: Path) -> ibis.BaseBackend:
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise DataError(
            "prepare.engine=spark needs PySpark and Java 17: pip install --no-deps -r requirements/spark.txt"
        ) from error
    session = (
        SparkSession.builder.master(cfg["master"])
        .appName("sextet prepare")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.ansi.enabled", "false")  # a cell that does not parse is null, as on DuckDB
        .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return ibis.pyspark.connect(session)


def materialize(con: ibis.BaseBackend, name: str, table: ir.Table) -> ir.Table:
    """The result of `table`, computed once and kept by the engine under `name`, in place of what was."""
    if con.name == "pyspark":
        con._register_in_memory_tables(table)
        kept = con._session.sql(con.compile(table)).localCheckpoint()
        kept.createOrReplaceTempView(name)
        # Spark numbers rows in int32 where Ibis says int64.
        return con.table(name).cast(table.schema())
    drop_tables(con, name)
    return con.create_table(name, table)


def drop_tables(con: ibis.BaseBackend, *names: str) -> None:
    """Forget what was kept under `names`: it takes memory, and disk beyond that."""
    for name in names:
        if con.name == "pyspark":
            con._session.catalog.dropTempView(name)
        else:
            con.raw_sql(f'DROP TABLE IF EXISTS "{name}"')


def read_parquet(con: ibis.BaseBackend, path: Path) -> ir.Table:
    """The rows of a file with `_row`, which rises in file order; from 1 and without gaps on DuckDB.

    Of a folder, the rows of its Parquet files by name; a column that some of them lack is null there. Raises
    DataError for a folder without any.
    """
    files = parquet_files(path)
    if con.name == "pyspark":
        from pyspark.sql import functions

        reader = con._session.read.option("mergeSchema", len(files) > 1)
        rows = reader.parquet(*(str(file.resolve()) for file in files))
        rows = rows.withColumn("_row", functions.monotonically_increasing_id() + 1)
        rows.createOrReplaceTempView(f"{path.stem}_file")
        return con.table(f"{path.stem}_file")
    # DuckDB has types of its own for nanoseconds with a zone (what pandas writes) and for columns of nulls,
    # which Ibis does not know. Reading the schema first also says more of a broken file than DuckDB does.
    casts = []
    for field in pq.read_schema(files[0]):
        name = field.name.replace('"', '""')
        if pa.types.is_null(field.type):
            casts.append(f'"{name}"::VARCHAR AS "{name}"')
        elif pa.types.is_timestamp(field.type) and field.type.unit == "ns" and field.type.tz:
            casts.append(f'"{name}"::TIMESTAMPTZ AS "{name}"')
    known = f"REPLACE ({', '.join(casts)})" if casts else ""
    names = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
    if path.is_dir():
        number = "row_number() OVER (ORDER BY _file, file_row_number)"
        options = "filename = '_file', union_by_name = true"
    else:
        number, options = "file_row_number + 1", "filename = false"
    rows = (
        f"SELECT * {known}, {number} AS _row FROM read_parquet([{names}], file_row_number = true, {options})"
    )
    con.raw_sql(f'CREATE OR REPLACE TEMP VIEW "{path.stem}_file" AS {rows}')
    table = con.table(f"{path.stem}_file")
    return table.drop("file_row_number", *(["_file"] if path.is_dir() else []))
