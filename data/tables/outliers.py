"""Limits extreme order lines, so that an entry error or a wholesale order does not dominate the statistics.

    quantity counts at most 20 times the 90th percentile of the shop's lines
    price    counts at most 100 times the 90th percentile

The 90th percentile resists extreme values in up to a tenth of the lines. Lines beyond a limit are winsorised:
they are kept, with the limit as their value.
"""

import ibis
import ibis.expr.types as ir

QUANTILE = 0.9
LIMITS = {"quantity": 20.0, "price": 100.0}  # column → factor of the quantile


def winsorize_lines(con: ibis.BaseBackend, orders: ir.Table) -> tuple[ir.Table, int]:
    """The order lines with values within the limits, and the number of lines that were beyond a limit."""
    quantiles = orders.agg(**{column: orders[column].quantile(QUANTILE) for column in LIMITS})
    usual = con.to_pyarrow(quantiles).to_pylist()[0]
    limits = {column: times * usual[column] for column, times in LIMITS.items() if usual[column]}
    is_beyond = ibis.or_(*(orders[column] > limit for column, limit in limits.items()))
    count = int(con.execute(is_beyond.sum().fill_null(0))) if limits else 0
    if not count:
        return orders, 0
    values = {column: ibis.least(orders[column], limit) for column, limit in limits.items()}
    return orders.mutate(**values), count
