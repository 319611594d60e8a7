"""Splits tables that share a file, such as a single list of order lines with titles.

    python train.py data=tables data.root=DIR data.files.orders=retail.csv data.files.items=retail.csv \\
      'data.columns.orders={order_id: Invoice, …}' 'data.columns.items={item_id: Code, title: Description}'
"""

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.types as ir

from data.tables.checks import UNIQUE_IDS
from data.tables.contract import TABLES
from serving.table_files import TableFile

TITLE = "title"


def separate_tables(raw: Mapping[str, ir.Table], files: Mapping[str, TableFile]) -> dict[str, ir.Table]:
    """Separates raw tables that share a file: each keeps only its own columns.

    Items and users get one row per id, with the latest value of each column. Titles take the most frequent
    value, because some lines hold staff notes such as "damaged" as title. Orders and events lack the columns
    that `data.columns` gives to another table.
    """
    separate = dict(raw)
    for name, table in raw.items():
        if not _sharing_tables(name, files):
            continue
        own = own_columns(name, table.columns, files)
        if name in UNIQUE_IDS and UNIQUE_IDS[name] in table.columns:
            separate[name] = _latest_values(table, UNIQUE_IDS[name], own)
        else:
            separate[name] = table.select(*own)
    return separate


def own_columns(name: str, columns: Sequence[str], files: Mapping[str, TableFile]) -> list[str]:
    """The columns of a table, by canonical name, that no other table of the same file has."""
    others = _sharing_tables(name, files)
    if not others:
        return list(columns)
    if name in UNIQUE_IDS and UNIQUE_IDS[name] in columns:
        return [c for c in columns if c in TABLES[name] or c in files[name].columns]
    claimed = {column for other in others for column in files[other].columns.values()}
    return [c for c in columns if c not in claimed or c in TABLES[name]]


def _sharing_tables(name: str, files: Mapping[str, TableFile]) -> list[str]:
    return [other for other in files if other != name and files[other].path == files[name].path]


def _latest_values(table: ir.Table, key: str, own_columns: Sequence[str]) -> ir.Table:
    own = [c for c in own_columns if c != key]
    rows = table.filter(table[key].notnull())
    values = {c: rows[c].last(order_by=rows["_row"]) for c in own if c != TITLE}
    latest = rows.group_by(key).agg(_row=ibis._["_row"].min(), **values)
    if TITLE not in own:
        return latest
    counts = rows.group_by([key, TITLE]).agg(n=ibis._.count(), last_row=ibis._["_row"].max())
    counts = counts.filter(counts[TITLE].notnull())
    by_count = [counts.n.desc(), counts.last_row.desc()]  # of equally frequent values the latest
    titles = counts.group_by(key).agg(**{TITLE: counts[TITLE].first(order_by=by_count)})
    return latest.left_join(titles, key).select(*latest.columns, TITLE)
