"""The engine that runs the queries of preparation: DuckDB on one machine, Spark on a cluster.

    python train.py prepare.engine=spark prepare.master=spark://host:7077

Only this module differs between the engines; all other modules of `data` write Ibis expressions that run on
both.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from serving.table_files import TableFile

ENGINES = ("duckdb", "spark")
FILE_COLUMN = "_file"  # column with the path of each row's file
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
        .config("spark.sql.ansi.enabled", "false")  # a cell that does not parse becomes null, as in DuckDB
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
    """Drop materialized tables, which take memory and disk."""
    for name in names:
        if con.name == "pyspark":
            con._session.catalog.dropTempView(name)
        else:
            con.raw_sql(f'DROP TABLE IF EXISTS "{name}"')


def read_parquet(con: ibis.BaseBackend, table_file: TableFile, keys: Sequence[str] = ()) -> ir.Table:
    """Reads the rows of a table, with a column `_row` that rises in file order.

    On DuckDB `_row` counts from 1 without gaps.

    For a folder, the files are read in the order of their names. A column that a file lacks is null in the
    file's rows.

    Args:
        keys: the keys of partitions that become columns, as text.
    """
    files, view = table_file.files, f"{table_file.path.name.split('.')[0]}_file"
    if con.name == "pyspark":
        from pyspark.sql import functions

        reader = con._session.read.option("mergeSchema", len(files) > 1)
        rows = reader.parquet(*(str(file.resolve()) for file in files))
        rows = rows.withColumn("_row", functions.monotonically_increasing_id() + 1)
        if keys:
            # Spark gives a URI, in which the % of a folder's name is escaped once more.
            rows = rows.withColumn(FILE_COLUMN, functions.url_decode(functions.input_file_name()))
        rows.createOrReplaceTempView(view)
        return add_partitions(con.table(view), table_file, keys)
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
    if len(files) > 1 or keys:
        row_number = f"row_number() OVER (ORDER BY {FILE_COLUMN}, file_row_number)"
        options = f"filename = '{FILE_COLUMN}', union_by_name = true"
    else:
        row_number, options = "file_row_number + 1", "filename = false"
    source = f"read_parquet([{names}], file_row_number = true, hive_partitioning = false, {options})"
    rows = f"SELECT * {replaced}, {row_number} AS _row FROM {source}"
    con.raw_sql(f'CREATE OR REPLACE TEMP VIEW "{view}" AS {rows}')
    return add_partitions(con.table(view).drop("file_row_number"), table_file, keys)


def add_partitions(table: ir.Table, table_file: TableFile, keys: Sequence[str]) -> ir.Table:
    """Adds a text column for each of these keys of partitions that the table lacks.

    Removes FILE_COLUMN, which holds the file of each row.
    """
    values: dict[str, ir.Value] = {}
    for key in keys:
        if key not in table.columns:  # some programs also write the key into the files
            text = table[FILE_COLUMN].re_extract(f"/{re.escape(key)}=([^/]*)/", 1)
            values[key] = _decoded_values(text, table_file.partition_values(key))
    table = table.mutate(**values)
    return table.drop(FILE_COLUMN) if FILE_COLUMN in table.columns else table


def _decoded_values(text: ir.StringValue, values: Mapping[str, str | None]) -> ir.StringValue:
    """Decodes the text of folder names into partition values, where the text is encoded."""
    differing = {raw: value for raw, value in values.items() if raw != value}
    cases = [
        (text == raw, ibis.null("string") if v is None else ibis.literal(v)) for raw, v in differing.items()
    ]
    return ibis.cases(*cases, else_=text) if cases else text
