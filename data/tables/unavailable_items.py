"""Items that a shop never recommends, such as postage and discounts: `data.unavailable_items`."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir

from data.errors import DataError

MAX_COMPARED = 200_000  # known ids that are searched for similar ids


def mark_unavailable(con: Any, tables: Mapping[str, ir.Table], setting: Sequence[Any]) -> ir.Table:
    """Mark the items of the setting as not available.

    These items stay in histories and outcomes. Raises DataError for a setting that is not a list, and for
    unknown ids; the message suggests similar ids.
    """
    items = tables["items"]
    if isinstance(setting, str | Mapping):
        raise DataError(f"data.unavailable_items is '{setting}': expected a list of ids, such as [POST, M]")
    ids = list(dict.fromkeys(str(item_id) for item_id in setting))
    if not ids:
        return items
    known = items.select("item_id").union(tables["orders"].select("item_id"), distinct=True)
    found = set(con.to_pyarrow(known.filter(known.item_id.isin(ids)))["item_id"].to_pylist())
    unknown = [item_id for item_id in ids if item_id not in found]
    if unknown:
        names = con.to_pyarrow(known.order_by("item_id").limit(MAX_COMPARED))["item_id"].to_pylist()
        by_folded_name = {name.casefold(): name for name in names if name}
        lines = []
        for item_id in unknown:
            near = difflib.get_close_matches(item_id.casefold(), by_folded_name, n=3, cutoff=0.5)
            hint = f" Did you mean {', '.join(by_folded_name[name] for name in near)}?" if near else ""
            lines.append(f"data.unavailable_items: neither items nor orders have '{item_id}'.{hint}")
        raise DataError("\n".join(lines))
    is_unavailable = items.item_id.isin(ids).fill_null(False)
    return items.mutate(available=ibis.ifelse(is_unavailable, False, items.available))
