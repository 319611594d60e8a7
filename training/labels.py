"""Labels of candidates, looked up from what a checkout led to."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.examples.splits import SPLITS
from models.jagged import lookup, segment_ids, segment_offsets
from models.schema import Candidates, Outcomes


class Labels(NamedTuple):
    """What came of each of the ΣC candidates."""

    click: Tensor  # [ΣC] float32, 0 or 1
    purchase: Tensor  # [ΣC] float32, 0 or 1
    value: Tensor  # [ΣC] float32, spent on it
    position: Tensor  # [ΣC] int64, where it was shown, 1 first; 0 for not shown or unknown
    weight: Tensor  # [ΣC] float32, 0 where the outcome is unknown, else the number of pairs it stands for


class LabelPolicy(NamedTuple):
    """What counts as a label in a shop.

    proxy: no clicks are logged; a click is "bought something of the candidate's leaf category inside the
        horizon", and an item without a category stands for itself. A purchase implies a click.
    impressions: clicks and impressions are logged. Only what was shown has an outcome. A click is a logged
        one; a purchase is a click and then a purchase inside the horizon: what was bought without a
        click would have been bought without the slot.
    """

    proxy_clicks: bool
    has_impressions: bool


def label_policy_from_meta(meta: dict[str, Any]) -> LabelPolicy:
    """The rule for a prepared folder, from its meta.json."""
    proxy = meta["click"] != "logged"
    return LabelPolicy(proxy, not proxy and all(meta["impressions"][split] for split in SPLITS))


def label_candidates(
    candidates: Candidates, outcomes: Outcomes, leaf: Tensor, label_policy: LabelPolicy
) -> Labels:
    """The labels of every candidate; `leaf` is Catalog.leaf [N+1]."""
    items = leaf.numel()
    segment, owner = segment_ids(candidates.offsets), segment_ids(outcomes.offsets)
    key = owner * items + outcomes.item
    order = key.argsort()
    columns = [outcomes.click, outcomes.purchase, outcomes.value, outcomes.position, outcomes.impression]
    facts = torch.stack([column.to(torch.float32) for column in columns], dim=1)[order]
    found = lookup(key[order], facts, segment * items + candidates.item)
    click, purchase, value, position, shown = found.unbind(1)
    if label_policy.proxy_clicks:
        kinds = int(leaf.max()) + 1
        bought = outcomes.purchase & (leaf[outcomes.item] > 0)
        near = torch.unique(owner[bought] * kinds + leaf[outcomes.item[bought]])
        click = lookup(near, torch.ones(near.numel(), 1), segment * kinds + leaf[candidates.item])[:, 0]
    if label_policy.has_impressions:
        purchase = purchase * click
    click = torch.maximum(click, purchase)
    weight = shown if label_policy.has_impressions else torch.ones_like(shown)
    return Labels(click, purchase, value * purchase, position.to(torch.int64), weight)


def concat_labels(parts: list[Labels]) -> Labels:
    """Labels of several batches as one."""
    return Labels(*(torch.cat(part) for part in zip(*parts, strict=True)))


def sample_negatives(
    candidates: Candidates, labels: Labels, rate: float, generator: torch.Generator
) -> tuple[Candidates, Labels]:
    """Keep every click and purchase, and of the other pairs a share of `rate`, each weighing 1 / rate more.

    Weighted sums over what is kept have the expectation of sums over all pairs (Horvitz and Thompson 1952),
    so probabilities stay calibrated. The candidates of highest retrieval score and of highest taste are
    always kept as well: features of the others are relative to them. Other pairs of unknown outcome (weight
    0) are dropped.
    """
    segment, count = segment_ids(candidates.offsets), candidates.offsets.numel() - 1
    certain = (labels.click > 0) | (labels.purchase > 0)
    for score, floor in (
        (candidates.score, -torch.inf),
        (candidates.ease_score, 0.0),
    ):  # no taste: no reference
        best = score.new_full([count], floor).scatter_reduce(0, segment, score, "amax")
        certain = certain | ((score == best[segment]) & (score > floor))
    drawn = torch.rand(segment.numel(), generator=generator).to(segment.device) < rate
    kept = certain | (drawn & (labels.weight > 0))
    weight = torch.where(certain, labels.weight, labels.weight / rate)
    fewer = Candidates(segment_offsets(segment[kept], count), *(field[kept] for field in candidates[1:]))
    return fewer, Labels(*(field[kept] for field in labels._replace(weight=weight)))
