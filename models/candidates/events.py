"""Decayed counts of a user's own events, by ranking and item.

A ranking orders a user's items by the `own_events` of one source. Rankings of different history kinds share
one counter.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.candidates.source import OwnEvents
from models.schema import HISTORY_KINDS, Query


class EventCounter(nn.Module):
    """Computes keys and weights of events, for rankings of disjoint history kinds.

    Args:
        rankings: position of the ranking → its events.
        skipped: position of the ranking → items [n] whose events are ignored.
        n_items: N+1.
    """

    ranking_of_kind: Tensor
    decay_rates: Tensor
    counts_kind: Tensor
    counts_event: Tensor

    def __init__(
        self, rankings: Mapping[int, OwnEvents], skipped: Mapping[int, Tensor], n_items: int
    ) -> None:
        super().__init__()
        self.n_kinds = len(HISTORY_KINDS)
        ranking_of_kind, decay_rates = [0] * self.n_kinds, [0.0] * self.n_kinds
        counts_kind = torch.zeros(self.n_kinds, dtype=torch.bool)
        counts_event = torch.zeros(n_items, self.n_kinds, dtype=torch.bool)
        for position, events in rankings.items():
            for kind in (HISTORY_KINDS.index(name) for name in events.kinds):
                ranking_of_kind[kind], decay_rates[kind] = position, -1.0 / events.half_life
                counts_kind[kind] = True
                counts_event[:, kind] = True
                counts_event[skipped[position], kind] = False
        self.register_buffer("ranking_of_kind", torch.tensor(ranking_of_kind))
        self.register_buffer("decay_rates", torch.tensor(decay_rates))
        self.register_buffer("counts_kind", counts_kind)
        self.register_buffer("counts_event", counts_event.flatten())  # [(N+1) · kinds], by item

    def forward(self, query: Query, checkout: Tensor, age: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
        """Keys and weights [n] of the counted events. The weight of an event is 2^(-age / half-life).

        Args:
            checkout: [ΣH] of each event.
            age: [ΣH] days.
        """
        event = query.history_item * self.n_kinds + query.history_kind
        kept = self.counts_event.index_select(0, event).nonzero().squeeze(1)
        ranking = self.ranking_of_kind.index_select(0, query.history_kind)
        key = (ranking * query.ts.numel() + checkout) * n_items + query.history_item
        weight = torch.exp2(age * self.decay_rates.index_select(0, query.history_kind))
        return key.index_select(0, kept), weight.index_select(0, kept)

    def extend_items(self, n_added: int) -> None:
        """Count events of `n_added` new item rows."""
        self.counts_event = torch.cat([self.counts_event, self.counts_kind.repeat(n_added)])


def build_event_counters(
    rankings: Mapping[str, OwnEvents], skipped: Mapping[str, Tensor], n_items: int
) -> list[EventCounter]:
    """Builds as few counters as the rankings' history kinds allow.

    `rankings` and `skipped` map a source to its events and to the items that it skips. Both have the order of
    the rankings.
    """
    groups: list[dict[int, OwnEvents]] = []
    for position, events in enumerate(rankings.values()):
        for group in groups:
            if not any(set(events.kinds) & set(member.kinds) for member in group.values()):
                group[position] = events
                break
        else:
            groups.append({position: events})
    skipped_by_position = dict(enumerate(skipped[name] for name in rankings))
    return [EventCounter(group, skipped_by_position, n_items) for group in groups]
