"""Labels of candidates, looked up from what a checkout led to."""

import torch
from torch import Tensor

from models.inputs import Candidates, Outcomes
from models.jagged import lookup, segment_ids


def label(
    candidates: Candidates, outcomes: Outcomes, leaf: Tensor, proxy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Click, purchase (0/1) and value of every candidate: three float tensors [ΣC].

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
    return torch.maximum(click, purchase), purchase, value * purchase
