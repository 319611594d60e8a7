"""Collects rows into lists, each list sorted.

user  ts  item             user  ts      item
a     2   7         ─▶     a     [1, 2]  [9, 7]
a     1   9                b     [5]     [4]
b     5   4
"""

import ibis
import ibis.expr.types as ir


def collect_lists(t: ir.Table, by: str, columns: dict[str, str], order: list[str]) -> ir.Table:
    """Collects the lists `columns` (name → column of `t`) of each group `by`.

    Lists are sorted by `order`, then by `columns`.

    Structs are sorted once. In DuckDB this is several times faster than an ordered aggregate per list, and
    Spark lacks ordered aggregates.
    """
    names = list(dict.fromkeys([*order, *columns.values()]))
    field_of = {name: f"f{i}" for i, name in enumerate(names)}
    row = ibis.struct({field_of[name]: t[name] for name in names})
    groups = t.select(by, row=row).group_by(by).agg(rows=ibis._.row.collect())
    groups = groups.mutate(rows=groups.rows.sort())
    return groups.select(by, **{name: extract_field(groups.rows, field_of[c]) for name, c in columns.items()})


def extract_field(structs: ir.Value, name: str) -> ir.Value:
    """One field of every struct of a list."""
    return structs.map(lambda struct: struct[name])
