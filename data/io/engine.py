"""The engine that runs the expressions of preparation: DuckDB on one machine, Spark beyond.

    python train.py prepare.engine=spark prepare.master=spark://host:7077

This module holds what differs between the two; all others of this room write Ibis expressions for both.
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
    """A connection to the engine of the `prepare` config, with its temporary files below `scratch`.

    Raises DataError for an engine that is unknown or not installed.
    """
    cfg = {**DEFAULTS, **cfg}
    if cfg["engine"] not in ENGINES:
        raise DataError(f"prepare.engine is '{cfg['engine']}', expected one of {', '.join(ENGINES)}")
    scratch.mkdir(parents=True, exist_ok=True)
    con = _spark(cfg, scratch) if cfg["engine"] == "spark" else _duckdb(cfg, scratch)
    try:
        yield con
    finally:
        con.disconnect()


def _duckdb(cfg: Mapping[str, Any], scratch: Path) -> ibis.BaseBackend:
    con = ibis.duckdb.connect(
        memory_limit=cfg["memory_limit"],
        threads=cfg["threads"] or os.cpu_count() or 1,
        temp_directory=str(scratch),
    )
    # DuckDB 2.0 answers `row_number() - 1 < n` with n - 1 rows per group where a query reads it twice: it
    # pushes the filter into the common table expression, and this rewrite then subtracts the 1 again.
    con.raw_sql("SET disabled_optimizers = 'top_n_window_elimination'")
    try:
        # With its ICU extension DuckDB reads zoned times in the session's zone; without it, it reads them in
        # UTC and does not know this setting.
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
        .config("spark.sql.ansi.enabled", "false")  # a cell that does not parse becomes null, as on DuckDB
        .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return ibis.pyspark.connect(session)


def materialize(con: ibis.BaseBackend, name: str, table: ir.Table) -> ir.Table:
    """Compute `table` once and keep the result in the engine as `name`, replacing an earlier one."""
    if con.name == "pyspark":
        con._register_in_memory_tables(table)
        result = con._session.sql(con.compile(table)).localCheckpoint()
        result.createOrReplaceTempView(name)
        # Spark numbers rows in int32 where Ibis says int64.
        return con.table(name).cast(table.schema())
    drop_tables(con, name)
    return con.create_table(name, table)


def drop_tables(con: ibis.BaseBackend, *names: str) -> None:
    """Drop materialized tables: they take memory, and disk beyond that."""
    for name in names:
        if con.name == "pyspark":
            con._session.catalog.dropTempView(name)
        else:
            con.raw_sql(f'DROP TABLE IF EXISTS "{name}"')


def read_parquet(con: ibis.BaseBackend, path: Path) -> ir.Table:
    """The rows of a file with `_row`, which rises in file order; on DuckDB from 1 and without gaps.

    Of a folder, the rows of its Parquet files by name; a column that a file lacks is null in its rows. Raises
    DataError for a folder without Parquet files.
    """
    files = parquet_files(path)
    if con.name == "pyspark":
        from pyspark.sql import functions

        reader = con._session.read.option("mergeSchema", len(files) > 1)
        rows = reader.parquet(*(str(file.resolve()) for file in files))
        rows = rows.withColumn("_row", functions.monotonically_increasing_id() + 1)
        rows.createOrReplaceTempView(f"{path.stem}_file")
        return con.table(f"{path.stem}_file")
    # Ibis does not know DuckDB's types for nanoseconds with a zone (pandas writes them) and for columns of
    # nulls. Reading the schema first also gives a better error for a broken file.
    casts = []
    for field in pq.read_schema(files[0]):
        name = field.name.replace('"', '""')
        if pa.types.is_null(field.type):
            casts.append(f'"{name}"::VARCHAR AS "{name}"')
        elif pa.types.is_timestamp(field.type) and field.type.unit == "ns" and field.type.tz:
            casts.append(f'"{name}"::TIMESTAMPTZ AS "{name}"')
    replaced = f"REPLACE ({', '.join(casts)})" if casts else ""
    names = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
    if path.is_dir():
        row_number = "row_number() OVER (ORDER BY _file, file_row_number)"
        options = "filename = '_file', union_by_name = true"
    else:
        row_number, options = "file_row_number + 1", "filename = false"
    source = f"read_parquet([{names}], file_row_number = true, {options})"
    rows = f"SELECT * {replaced}, {row_number} AS _row FROM {source}"
    con.raw_sql(f'CREATE OR REPLACE TEMP VIEW "{path.stem}_file" AS {rows}')
    table = con.table(f"{path.stem}_file")
    return table.drop("file_row_number", *(["_file"] if path.is_dir() else []))
