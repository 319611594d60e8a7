"""Forgotten users, whose data training drops: `data.forget`."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow.csv as csv_reader
import pyarrow.parquet as pq

from data.errors import DataError
from data.io import engine
from serving.forget.user_list import read_user_list
from serving.remote import RemoteError
from serving.remote_copies import local_copy
from serving.table_files import FORMATS, TableFileError, file_format

TABLES_BY_USER = ("orders", "events", "users")


def forgotten_users(setting: str | None) -> list[str]:
    """The sorted ids of the file that `data.forget` names. Empty without a file.

    A text file has one id per line (serving/forget/user_list.py); a Parquet or CSV file has a column user_id.
    Raises DataError for a file that cannot be used.
    """
    if not setting:
        return []
    try:
        path = local_copy(str(setting))
        is_table = any(path.name.lower().endswith(suffix) for suffix in FORMATS)
        return sorted(set(_read_column(path) if is_table else read_user_list(path)))
    except (OSError, ValueError, RemoteError, TableFileError) as error:
        raise DataError(f"data.forget={setting}: {error}") from error


def _read_column(path: Path) -> list[str]:
    if file_format(path) == "parquet":
        table = pq.read_table(path)
    else:
        options = csv_reader.ConvertOptions(column_types={"user_id": "string"}, strings_can_be_null=False)
        table = csv_reader.read_csv(path, convert_options=options)
    if "user_id" not in table.column_names:
        raise ValueError(f"column user_id is missing; the file has {', '.join(table.column_names)}")
    return [str(user_id) for user_id in table["user_id"].to_pylist() if user_id not in (None, "")]


def drop_users(
    con: ibis.BaseBackend, tables: Mapping[str, ir.Table], user_ids: Collection[str]
) -> tuple[dict[str, ir.Table], int]:
    """Drops the users from the conformed tables. Returns the tables and the number of rows dropped.

    An event belongs to a user by its `user_id`, by an order of the user, or by a `request_id` that it shares
    with such an event.
    """
    if not user_ids:
        return dict(tables), 0
    kept = dict(tables)
    n_dropped = 0
    for name in TABLES_BY_USER:
        if name in tables:
            rows = tables[name]
            theirs = rows.filter(rows.user_id.isin(user_ids)).select("_row")
            if name == "events":
                theirs = _add_events(theirs, rows, tables["orders"], user_ids)
            kept[name] = engine.materialize(con, f"kept_{name}", rows.anti_join(theirs, "_row"))
            n_dropped += _count(con, rows) - _count(con, kept[name])
    return kept, n_dropped


def _add_events(theirs: ir.Table, events: ir.Table, orders: ir.Table, user_ids: Collection[str]) -> ir.Table:
    """The `_row` of the users' events: `theirs`, and the events of their orders and of their requests."""
    order_ids = orders.filter(orders.user_id.isin(user_ids)).select("order_id").distinct()
    theirs = theirs.union(events.semi_join(order_ids, "order_id").select("_row"), distinct=True)
    requests = events.semi_join(theirs, "_row").filter(lambda t: t.request_id.fill_null("") != "")
    return theirs.union(events.semi_join(requests, "request_id").select("_row"), distinct=True)


def _count(con: ibis.BaseBackend, table: ir.Table) -> int:
    count: Any = con.execute(table.count())
    return int(count)
