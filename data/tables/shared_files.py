"""Tables that lie in one file, as of a shop that keeps a single list of order lines.

    python train.py data=tables data.root=DIR data.files.orders=retail.csv data.files.items=retail.csv \\
      'data.columns.orders={order_id: Invoice, …}' 'data.columns.items={item_id: Code, title: Description}'
"""

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from data.tables.checks import UNIQUE_IDS
from data.tables.contract import TABLES
from serving.table_files import TableFile


def separate_tables(raw: Mapping[str, ir.Table], files: Mapping[str, TableFile]) -> dict[str, ir.Table]:
    """The raw tables, where those of one file each keep what is their own.

    Items and users then have one row per id, with the latest value of each column that the contract or
    `data.columns` has. Orders and events lack the columns that `data.columns` gives to another table.
    """
    separate = dict(raw)
    for name, table in raw.items():
        others = [other for other in raw if other != name and files[other].path == files[name].path]
        if not others:
            continue
        if name in UNIQUE_IDS and UNIQUE_IDS[name] in table.columns:
            separate[name] = _latest_values(table, name, files[name])
        else:
            claimed = {column for other in others for column in files[other].columns.values()}
            separate[name] = table.drop(*[c for c in table.columns if c in claimed and c not in TABLES[name]])
    return separate


def _latest_values(table: ir.Table, name: str, file: TableFile) -> ir.Table:
    key = UNIQUE_IDS[name]
    own = [c for c in table.columns if (c in TABLES[name] or c in file.columns) and c != key]
    rows = table.filter(table[key].notnull())
    values = {c: rows[c].last(order_by=rows["_row"]) for c in own}
    return rows.group_by(key).agg(_row=ibis._["_row"].min(), **values)
