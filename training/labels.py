"""Labels of candidates, looked up in the outcomes of their checkouts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.examples.labels import is_line_label
from data.examples.splits import SPLITS
from models.jagged import lookup, segment_ids, segment_offsets
from models.ranking.tasks import BOUGHT, ORGANIC, Task, parent_indices, parent_labels
from models.schema import Candidates, Outcomes
from training.errors import ConfigError

MAX_INVERSE_PROPENSITY = 100.0  # smaller probabilities of being held back, or shown, count as 1 %


class Labels(NamedTuple):
    """The outcomes of ΣC candidates."""

    click: Tensor  # [ΣC] float32, 0 or 1
    purchase: Tensor  # [ΣC] float32, 0 or 1
    value: Tensor  # [ΣC] float32, the user's spend on the item
    further: Tensor  # [ΣC, F] float32, the labels of LabelPolicy.further
    position: Tensor  # [ΣC] int64, position of the impression, 1 first; 0 for none or an unknown position
    weight: Tensor  # [ΣC] float32, number of pairs that the candidate represents, 0 for an unknown outcome
    bought: Tensor  # [ΣC] float32, 0 or 1: bought inside the horizon, with or without a click
    organic_weight: Tensor  # [ΣC] float32, as `weight`, for the outcome of an item that is not shown


class LabelPolicy(NamedTuple):
    """The rules by which a shop's log gives labels.

    Args:
        proxy_clicks: the shop logs no clicks. A click is "bought something of the candidate's leaf category
            inside the horizon". For an item without a category, only a purchase of the item counts. A
            purchase implies a click.
        has_impressions: the shop logs clicks and impressions. Only impressions have an outcome. A purchase
            is a logged click, followed by a purchase inside the horizon. An item that was bought without a
            click is assumed to be bought without the slot as well.
        further: keys of the labels other than click, purchase and spend, as preparation wrote them.
        has_organic: a task learns purchases of items that are not shown. Without such a task, items that are
            not shown have no outcome if impressions are logged.
    """

    proxy_clicks: bool
    has_impressions: bool
    further: tuple[str, ...] = ()
    has_organic: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that a task can name, in the order of `label_columns`."""
        return ("click", "purchase", "spend", BOUGHT, ORGANIC, *self.further)


def label_policy_from_meta(meta: dict[str, Any], tasks: Sequence[Task] = ()) -> LabelPolicy:
    """The label policy of a prepared folder, from its meta.json, for a ranker of these tasks."""
    proxy = meta["click"] != "logged"
    has_impressions = not proxy and all(meta["impressions"][split] for split in SPLITS)
    has_organic = any(task.label == ORGANIC for task in tasks)
    return LabelPolicy(proxy, has_impressions, tuple(meta.get("labels", ())), has_organic)


def label_candidates(
    candidates: Candidates, outcomes: Outcomes, leaf: Tensor, label_policy: LabelPolicy
) -> Labels:
    """Looks up the labels of every candidate. `leaf` is Catalog.leaf [N+1].

    If a share w of the slates is withheld, an impression has the weight 1 / (1 - w), and an item of a
    withheld slate (a ghost) has the weight 1 / w. So weighted sums have the expectation of sums over all
    pairs, if all slates were shown or if no slate were shown (Horvitz and Thompson 1952). Candidates that are
    on no slate have the weight 1. If no slate is withheld, no pair represents the organic purchases of shown
    items; the model then assumes that organic purchases depend on the ranker's inputs, not on being shown.
    """
    items = leaf.numel()
    segment, owner = segment_ids(candidates.offsets), segment_ids(outcomes.offsets)
    key = owner * items + outcomes.item
    order = key.argsort()
    columns = [
        outcomes.click, outcomes.purchase, outcomes.value, outcomes.position, outcomes.impression,
        outcomes.ghost, outcomes.withhold,
    ]  # fmt: skip
    values = torch.stack([column.to(torch.float32) for column in columns], dim=1)
    outcome_values = torch.cat([values, outcomes.further], dim=1)[order]
    candidate_values = lookup(key[order], outcome_values, segment * items + candidates.item)
    click, bought, value, position, impression, ghost, withhold = candidate_values[:, : len(columns)].unbind(
        1
    )
    purchase = bought
    further = candidate_values[:, len(columns) :]
    if label_policy.proxy_clicks:
        leaves = int(leaf.max()) + 1
        has_leaf = outcomes.purchase & (leaf[outcomes.item] > 0)
        bought_leaves = torch.unique(owner[has_leaf] * leaves + leaf[outcomes.item[has_leaf]])
        clicked = torch.ones(bought_leaves.numel(), 1)
        click = lookup(bought_leaves, clicked, segment * leaves + leaf[candidates.item])[:, 0]
    if label_policy.has_impressions:
        purchase = purchase * click
        # Labels that follow a purchase count where the purchase counts.
        is_line = torch.tensor(
            [is_line_label(key) for key in label_policy.further], dtype=torch.bool, device=click.device
        )
        further = torch.where(is_line, further * click.unsqueeze(1), further)
    click = torch.maximum(click, purchase)
    weight = torch.ones_like(impression)
    organic_weight = torch.ones_like(impression)
    if label_policy.has_impressions:
        weight = impression / (1 - withhold).clamp_min(1 / MAX_INVERSE_PROPENSITY)
        inverse = 1 / withhold.clamp_min(1 / MAX_INVERSE_PROPENSITY)
        organic_weight = torch.where(ghost > 0, inverse, 1 - impression) * float(label_policy.has_organic)
    position = position.to(torch.int64)
    return Labels(click, purchase, value * purchase, further, position, weight, bought, organic_weight)


def task_labels(labels: Labels, tasks: Sequence[Task], label_policy: LabelPolicy) -> Tensor:
    """The labels of the tasks [ΣC, T]. A parent is positive where its binary child is positive.

    Raises ValueError for a label that preparation did not write.
    """
    base = [labels.click, labels.purchase, labels.value, labels.bought, labels.bought]
    facts = torch.cat(
        [torch.stack(base, dim=1), labels.further], dim=1
    )  # [ΣC, 5 + F], in the order of LabelPolicy.names
    columns = [facts[:, _label_position(task, label_policy)] for task in tasks]
    parents = parent_indices(tasks)
    for t in reversed(range(len(tasks))):
        if tasks[t].is_binary and parents[t] >= 0:
            columns[parents[t]] = torch.maximum(columns[parents[t]], columns[t])
    return torch.stack(columns, dim=1)


def check_task_labels(tasks: Sequence[Task], label_policy: LabelPolicy) -> None:
    """Raises ConfigError for a task whose label needs impressions if the shop logs none."""
    for task in tasks:
        if (task.label == BOUGHT or task.control is not None) and not label_policy.has_impressions:
            raise ConfigError(
                f"tasks.{task.name} compares purchases with and without an impression of the item, but the "
                "events of this shop lack impressions in a split: log impressions, or leave the task out"
            )


def task_weights(labels: Labels, tasks: Sequence[Task]) -> Tensor:
    """The number [ΣC, T] of pairs that a candidate represents for each task. 0 for an unknown outcome."""
    return torch.stack(
        [labels.organic_weight if task.label == ORGANIC else labels.weight for task in tasks], dim=1
    )


def measured_pairs(labels: Tensor, tasks: Sequence[Task]) -> list[Tensor]:
    """Returns a mask [n] for each task: the candidates on which it is measured, by the labels [n, T].

    A joint probability is measured on all candidates. A conditional probability, an amount and a count are
    measured only where the parent happened.
    """
    return [
        torch.ones_like(happened, dtype=torch.bool) if task.is_binary and task.joint else happened > 0
        for task, happened in zip(tasks, parent_labels(labels, tasks), strict=True)
    ]


def _label_position(task: Task, label_policy: LabelPolicy) -> int:
    if task.label_key not in label_policy.names:
        raise ValueError(
            f"tasks.{task.name}: the prepared data lack the label {task.label_key}; they have "
            f"{', '.join(label_policy.names)}. Prepare again with python train.py"
        )
    return label_policy.names.index(task.label_key)


def select_labels(labels: Labels, selected: Tensor) -> Labels:
    """Selects the labels of some candidates. `selected` is a mask [ΣC] or row numbers."""
    return Labels(*(field[selected] for field in labels))


def concat_labels(parts: list[Labels]) -> Labels:
    """Concatenate the labels of several batches."""
    return Labels(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def keep_probability(labels: Labels, rate: float, label_policy: LabelPolicy) -> Tensor:
    """The probability [ΣC] with which a pair without outcome is kept.

    It is `rate` times the number of pairs that the pair represents. All impressions are kept, because they
    are few.
    """
    probability = (rate * labels.organic_weight.maximum(labels.weight)).clamp_max(1.0)
    if label_policy.has_impressions:
        return torch.where(labels.weight > 0, 1.0, probability)
    return probability


def sample_negatives(
    candidates: Candidates, labels: Labels, rate: float | Tensor, generator: torch.Generator
) -> tuple[Candidates, Labels]:
    """Keep every pair with an outcome, and a share `rate` of the other pairs, with the weight 1 / rate each.

    Weighted sums over the sample have the expectation of sums over all pairs (Horvitz and Thompson 1952), so
    probabilities stay calibrated. The candidate with the highest retrieval score, and the candidate with the
    highest score of each list source, are kept too, because features of other candidates are relative to
    these scores. Other pairs of unknown outcome (weight 0) are dropped.

    Args:
        rate: share of all pairs, or probability of each pair [ΣC] (`keep_probability`).
    """
    segment, count = segment_ids(candidates.offsets), candidates.offsets.numel() - 1
    always_kept = (labels.click > 0) | (labels.purchase > 0) | (labels.further > 0).any(1)
    always_kept = always_kept | ((labels.bought > 0) & (labels.organic_weight > 0))
    is_known = (labels.weight > 0) | (labels.organic_weight > 0)
    # A list score of 0 means no score, so no feature is relative to it.
    list_scores = [(score, 0.0) for score in candidates.list_scores.unbind(1)]
    for score, floor in [(candidates.score, -torch.inf), *list_scores]:
        best = score.new_full([count], floor).scatter_reduce(0, segment, score, "amax")
        always_kept = always_kept | ((score == best[segment]) & (score > floor))
    drawn = torch.rand(segment.numel(), generator=generator).to(segment.device) < rate
    kept = always_kept | (drawn & is_known)
    weights = {
        "weight": torch.where(always_kept, labels.weight, labels.weight / rate),
        "organic_weight": torch.where(always_kept, labels.organic_weight, labels.organic_weight / rate),
    }
    sample = Candidates(segment_offsets(segment[kept], count), *(field[kept] for field in candidates[1:]))
    return sample, select_labels(labels._replace(**weights), kept)
