"""Reads the live state once, before the first answer, for commands such as `recommend` and `batch`."""

import json
import sys
from collections.abc import Mapping

from ..live_items.changes import TOPIC as ITEMS_TOPIC
from ..live_items.changes import group_by_item, merged_until, read_entry
from ..live_items.overlay import LiveItems
from ..pipeline.rules.document import TOPIC as RULES_TOPIC
from ..pipeline.rules.document import Rule, read_rule
from ..recommender import Recommender
from ..stores.live_state import START
from ..stores.uri import open_live_state


def apply_live_state(recommender: Recommender, uri: str, file_rules: Mapping[str, Rule]) -> None:
    """Apply live items and rules to a recommender; a live rule replaces a file's rule of the same name.

    Unreadable entries are printed and ignored. Raises OSError for a state that cannot be read,
    ValueError for another scheme.
    """
    present = [change for change in open_live_state(uri).read(START).changes if change.value is not None]
    rules, items = dict(file_rules), []
    until = merged_until(recommender.bundle.manifest)
    for topic, key, value in present:
        assert value is not None
        try:
            if topic == RULES_TOPIC:
                rules[key] = read_rule(key, json.loads(value))
            elif topic == ITEMS_TOPIC and (entry := read_entry(key, value)).ts > until:
                items.append(entry)
        except (ValueError, RecursionError) as error:
            print(f"note: {topic} {key!r} of the live state is ignored: {error}", file=sys.stderr)
    if items:
        live_items = LiveItems(
            recommender.bundle, recommender.eligibility_filter, recommender.popularity_fallback,
            recommender.slate_builder, recommender.last_slates, recommender.rules,
        )  # fmt: skip
        live_items.apply(group_by_item(items))
    recommender.rules.replace(rules.values())
