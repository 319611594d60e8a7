"""Labels of candidates, looked up from what a checkout led to."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.splits import SPLITS
from models.inputs import Candidates, Outcomes
from models.jagged import lookup, segment_ids


class Labels(NamedTuple):
    """What came of each of the ΣC candidates."""

    click: Tensor  # [ΣC] float32, 0 or 1
    purchase: Tensor  # [ΣC] float32, 0 or 1
    value: Tensor  # [ΣC] float32, spent on it
    position: Tensor  # [ΣC] int64, where it was shown, 1 first; 0 for not shown or unknown
    weight: Tensor  # [ΣC] float32, 0 where the outcome is unknown, else 1


class Rule(NamedTuple):
    """What counts as a label in a shop.

    proxy: no clicks are logged; a click is "bought something of the candidate's leaf category inside the
        horizon", and an item without a category stands for itself. A purchase implies a click.
    impressions: clicks and impressions are logged. Only what was shown has an outcome. A click is a logged
        one; a purchase is a click and then a purchase inside the horizon: what was bought without a
        click would have been bought without the slot.
    """

    proxy: bool
    impressions: bool


def rule(meta: dict[str, Any]) -> Rule:
    """The rule for a prepared folder, from its meta.json."""
    proxy = meta["click"] != "logged"
    return Rule(proxy, not proxy and all(meta["impressions"][split] for split in SPLITS))


def label(candidates: Candidates, outcomes: Outcomes, leaf: Tensor, rule: Rule) -> Labels:
    """The labels of every candidate; `leaf` is Catalog.leaf [N+1]."""
    items = leaf.numel()
    segment, owner = segment_ids(candidates.offsets), segment_ids(outcomes.offsets)
    key = owner * items + outcomes.item
    order = key.argsort()
    columns = [outcomes.click, outcomes.purchase, outcomes.value, outcomes.position, outcomes.shown]
    facts = torch.stack([column.to(torch.float32) for column in columns], dim=1)[order]
    found = lookup(key[order], facts, segment * items + candidates.item)
    click, purchase, value, position, shown = found.unbind(1)
    if rule.proxy:
        kinds = int(leaf.max()) + 1
        bought = outcomes.purchase & (leaf[outcomes.item] > 0)
        near = torch.unique(owner[bought] * kinds + leaf[outcomes.item[bought]])
        click = lookup(near, torch.ones(near.numel(), 1), segment * kinds + leaf[candidates.item])[:, 0]
    if rule.impressions:
        purchase = purchase * click
    click = torch.maximum(click, purchase)
    weight = shown if rule.impressions else torch.ones_like(shown)
    return Labels(click, purchase, value * purchase, position.to(torch.int64), weight)
