"""The exclusion rule: outcomes do not count if the slate of the checkout cannot show the item.

    slate: {exclude_basket: true, exclude_bought_within: null, repeat_categories: []}

With this setting a slate never shows an item that was just paid. So buying that item again is no label, and
no metric counts it. An item of `repeat_categories` always counts. Serving applies the same rule
(serving/pipeline/exclusion.py). This module applies it to tables.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.tables.encoded_tables import EncodedTables
from serving.pipeline.exclusion import NO_EXCLUSION, ExclusionRule
from serving.pipeline.slate_policy import SlatePolicy

SETTINGS = ("exclude_basket", "exclude_bought_within", "repeat_categories")  # of `slate`


class Exclusion(NamedTuple):
    """The exclusion rule, and the categories that are exempt from it."""

    rule: ExclusionRule = NO_EXCLUSION
    repeat_categories: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the exclusion, ready for JSON."""
        return {**self.rule._asdict(), "repeat_categories": list(self.repeat_categories)}


KEEP_ALL = Exclusion()


def read_exclusion(slate: Mapping[str, Any] | None) -> Exclusion:
    """The exclusion of a config's `slate` settings; no exclusion without these settings.

    Raises DataError for a value that cannot be used.
    """
    settings = {name: value for name, value in (slate or {}).items() if name in SETTINGS}
    try:
        policy = SlatePolicy(**{"exclude_basket": False, **settings})
    except ValueError as error:
        raise DataError(str(error)) from error
    return Exclusion(policy.exclusion, policy.repeat_categories)


def exclusion_from_meta(meta: Mapping[str, Any]) -> Exclusion:
    """The exclusion of a prepared folder, from its meta.json.

    Folders of earlier releases excluded nothing.
    """
    settings = dict(meta.get("exclusion") or {})
    categories = tuple(settings.pop("repeat_categories", ()))
    return Exclusion(ExclusionRule(**settings), categories)


def is_repeatable(category: ir.Value, exclusion: Exclusion) -> ir.BooleanValue:
    """True for items of the category paths that may be shown again, or of paths below them."""
    repeatable: ir.BooleanValue = ibis.literal(False)
    for path in exclusion.repeat_categories:
        repeatable = repeatable | (category == path) | category.startswith(f"{path}/")
    return repeatable.fill_null(False)


def excluded_items(encoded: EncodedTables, checkouts: ir.Table, exclusion: Exclusion) -> ir.Table | None:
    """The pairs `order, item` that slates of `checkouts` may not show. None if the rule excludes nothing."""
    lines, rule = encoded.lines, exclusion.rule
    parts = []
    if rule.basket:
        parts.append(lines.semi_join(checkouts, "order").select("order", "item"))
    if rule.bought_within:
        earlier = lines.select("user", "item", "available_at", line_ts="ts", line_order="order")
        t = checkouts.select("order", "user", "ts").join(earlier, "user")
        # As in a request: an event in the second of the checkout, or later, is not in the history.
        t = t.filter(
            t.line_order != t.order,
            t.line_ts < t.ts,
            t.available_at <= t.ts,
            t.ts - t.line_ts <= rule.bought_within,
        )
        parts.append(t.select("order", "item"))
    if not parts:
        return None
    pairs = (parts[0] if len(parts) == 1 else parts[0].union(parts[1])).distinct()
    items = encoded.items
    spared = items.filter(is_repeatable(items.category, exclusion)).select("item")
    return pairs.anti_join(spared, "item") if exclusion.repeat_categories else pairs
