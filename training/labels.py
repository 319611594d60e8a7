"""Labels of candidates, looked up from what a checkout led to."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.inputs import Candidates, Outcomes
from models.jagged import lookup, offsets_of, segment_ids


class Labels(NamedTuple):
    """What became of every candidate; [ΣC] each."""

    click: Tensor  # float32, 0 or 1
    purchase: Tensor  # float32, 0 or 1
    value: Tensor  # float32, what the user spent on it
    position: Tensor  # int64, where it was shown, from 1; 0 for not shown or not known
    weight: Tensor  # float32, for how many pairs it stands in a loss; 0 where the outcome is not known


def label(candidates: Candidates, outcomes: Outcomes, leaf: Tensor, proxy: bool) -> Labels:
    """Labels of every candidate.

    With `proxy`, a click is "bought something of the candidate's leaf category inside the horizon"; an item
    without a category stands for itself. Otherwise clicks come from the log. A purchase implies a click.
    `leaf` is Catalog.leaf [N+1].
    """
    items = leaf.numel()
    segment, owner = segment_ids(candidates.offsets), segment_ids(outcomes.offsets)
    key = owner * items + outcomes.item
    order = key.argsort()
    facts = torch.stack([outcomes.click.float(), outcomes.purchase.float(), outcomes.value], dim=1)[order]
    found = lookup(key[order], facts, segment * items + candidates.item)
    click, purchase, value = found.unbind(1)
    if proxy:
        kinds = int(leaf.max()) + 1
        bought = outcomes.purchase & (leaf[outcomes.item] > 0)
        near = torch.unique(owner[bought] * kinds + leaf[outcomes.item[bought]])
        click = lookup(near, torch.ones(near.numel(), 1), segment * kinds + leaf[candidates.item])[:, 0]
    position, weight = torch.zeros_like(candidates.item), torch.ones_like(click)
    return Labels(torch.maximum(click, purchase), purchase, value * purchase, position, weight)


def sample_negatives(
    candidates: Candidates, labels: Labels, rate: float, generator: torch.Generator
) -> tuple[Candidates, Labels]:
    """Keep every click and purchase, and of the other pairs a share of `rate`, each weighing 1 / rate more.

    Weighted sums over what is kept have the expectation of sums over all pairs (Horvitz and Thompson 1952),
    so probabilities stay calibrated. The candidate of highest retrieval score is always kept as well: a
    feature of the others is their distance to it.
    """
    segment, count = segment_ids(candidates.offsets), candidates.offsets.numel() - 1
    best = candidates.score.new_full([count], -torch.inf)
    best = best.scatter_reduce(0, segment, candidates.score, "amax")
    certain = (labels.click > 0) | (labels.purchase > 0) | (candidates.score == best[segment])
    drawn = torch.rand(segment.numel(), generator=generator).to(segment.device) < rate
    kept = certain | drawn
    weight = torch.where(certain, labels.weight, labels.weight / rate)
    fewer = Candidates(offsets_of(segment[kept], count), *(field[kept] for field in candidates[1:]))
    return fewer, Labels(*(field[kept] for field in labels._replace(weight=weight)))
