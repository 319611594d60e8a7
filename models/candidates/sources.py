"""The configured candidate sources, fused into one candidate list per checkout.

The same module gathers candidates for training in batches and, scripted, for one request in serving.
Its tables belong to one snapshot date.

    index, global lists ────────────────────────────────────╮
    history, basket ─ counts ─▶ own-event sources ──────────┤
                        │ own items                         ├─▶ fusion
                        ▼                                   │
    basket ────────── lists ─▶ list sources ────────────────╯

Sources in the same row share their tensor operations, because a request pays for each operation.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from models.candidates.events import EventCounter, build_event_counters
from models.candidates.fusion import Proposals, fuse, global_proposals, top_proposals
from models.candidates.item_lists import concat_lists, pad_lists
from models.candidates.keys import SourceRanking, key_positions, rank_by_source, split_keys
from models.candidates.seeds import (
    BasketCategorySeeds,
    BasketItemSeeds,
    OwnItemSeeds,
    RecentItemSeeds,
    SeedInputs,
    build_seeds,
    sum_lists,
)
from models.candidates.source import (
    INDEX_SOURCE,
    BasketCategories,
    SeedLists,
    Source,
    SourceInputs,
    check_sources,
    own_event_rankings,
    scored_sources,
)
from models.embeddings import gather_rows_int8
from models.jagged import contains, lookup, segment_ids, segment_offsets, sum_by_key
from models.schema import Candidates, Catalog, Query, seconds_to_days

T = TypeVar("T")


class PersonalScores(NamedTuple):
    """Scores of the personalised sources, before their limits."""

    own_keys: Tensor  # [U] int64, rising: items of the user's own events
    own_items: SourceRanking  # [U] these items, ranked
    neighbour_keys: Tensor  # [V] int64, rising: items in the lists of the seeds
    neighbour_scores: Tensor  # [V] float32


class CandidateSources(nn.Module):
    """Fused proposals of all sources.

    Args:
        sources: by name; bit i of `Candidates.source_mask` is the i-th. A source with limit 0 has a bit, but
            proposes nothing.
        inputs: of one snapshot date.
        max_candidates: candidates per checkout after fusion; None for all.
        scored: sources by column of `Candidates.list_scores`; None for all sources with lists. The column of
            a source with limit 0 is 0.
    """

    global_items: Tensor
    global_source_bits: Tensor
    global_ranks: Tensor
    list_offsets: Tensor
    list_items: Tensor
    list_scores: Tensor
    source_limits: Tensor
    rank_offset: Tensor
    source_bits: Tensor
    score_positions: Tensor
    basket_rankings: list[int]
    excluded_shifts: list[int]

    def __init__(
        self,
        sources: Mapping[str, Source],
        inputs: SourceInputs,
        max_candidates: int | None = None,
        scored: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        check_sources(sources)
        self.max_candidates = max_candidates
        self.n_items = inputs.catalog.leaf.numel()
        bits = {name: 1 << position for position, name in enumerate(sources)}
        global_lists = {name: _named(name, source.global_list, inputs) for name, source in sources.items()}
        events = own_event_rankings(sources)
        rankings = {name: position for position, name in enumerate(events)}
        seed_lists = {name: s.seed_lists for name, s in sources.items() if s.seed_lists and s.limit > 0}
        positions = key_positions([*rankings], {name: sources[name].seed_events for name in seed_lists})
        self.ann_bit = bits.get(INDEX_SOURCE, 0)
        self._register_global_lists(global_lists, bits)
        self.event_counters = nn.ModuleList(build_event_counters(events, global_lists, self.n_items))
        self.basket_rankings = [rankings[name] for name in events if events[name].counts_basket]
        self._register_lists(seed_lists, inputs)
        self.list_seeds = nn.ModuleList(
            build_seeds(seed_lists[name].seeds, positions[name], first_row, rankings)
            for name, first_row in zip(seed_lists, self.list_first_rows, strict=True)
        )
        # Shifts the keys of a ranking to a list source that leaves out the ranking's items.
        self.excluded_shifts = [
            positions[name] - rankings[ranking]
            for name in seed_lists
            if (ranking := sources[name].seed_events) is not None
        ]
        scored = scored_sources(sources) if scored is None else scored
        self._register_by_position("score_positions", [positions.get(name, -1) for name in scored])
        # By position in keys. A source's global list precedes its own events.
        by_position = {position: name for name, position in (rankings | positions).items()}
        in_keys = [by_position.get(position) for position in range(max(by_position, default=-1) + 1)]
        self._register_by_position("source_limits", [sources[n].limit if n else 0 for n in in_keys])
        self._register_by_position("rank_offset", [global_lists[n].numel() if n else 0 for n in in_keys])
        self._register_by_position("source_bits", [bits[n] if n else 0 for n in in_keys])

    def _register_by_position(self, name: str, values: list[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.int64))

    def _register_global_lists(self, lists: Mapping[str, Tensor], bits: Mapping[str, int]) -> None:
        source_bits = [torch.full_like(items, bits[name]) for name, items in lists.items()]
        ranks = [torch.arange(items.numel()) for items in lists.values()]
        self.register_buffer("global_items", torch.cat([*lists.values()]))
        self.register_buffer("global_source_bits", torch.cat(source_bits))
        self.register_buffer("global_ranks", torch.cat(ranks))

    def _register_lists(self, seed_lists: Mapping[str, SeedLists], inputs: SourceInputs) -> None:
        tables = [_named(name, lists.read_table, inputs) for name, lists in seed_lists.items()]
        self.list_first_rows, lists = concat_lists(tables)
        self.lists_by_item = [not isinstance(s.seeds, BasketCategories) for s in seed_lists.values()]
        self.register_buffer("list_offsets", lists.offsets)
        self.register_buffer("list_items", lists.item)
        self.register_buffer("list_scores", lists.score)

    def forward(self, query: Query, query_vector: Tensor, ann: Tensor, catalog: Catalog) -> Candidates:
        """Returns the candidates of B checkouts.

        Args:
            query_vector: [B, D].
            ann: [B, K] item rows of the index, -1 for none.
        """
        n_checkouts, n_items = query.ts.numel(), catalog.leaf.numel()
        personal = self.personal_scores(query, catalog.leaf)
        everyone, personalised = self.proposals(personal, ann, n_checkouts, n_items)
        keys, source_mask = fuse(everyone, personalised, catalog.available, self.max_candidates, n_checkouts)
        checkout, item = split_keys(keys, n_items, n_checkouts)
        item_vector = gather_rows_int8(catalog.vectors, item)  # [ΣC, D]
        vector = query_vector if n_checkouts == 1 else query_vector.index_select(0, checkout)
        score = (item_vector * vector).sum(1)
        list_scores = self.score_by_source(personal, keys, n_checkouts * n_items)
        return Candidates(segment_offsets(checkout, n_checkouts), item, source_mask, score, list_scores)

    def proposals(
        self, personal: PersonalScores, ann: Tensor, n_checkouts: int, n_items: int
    ) -> tuple[Proposals, Proposals]:
        """The proposals of the index and the global lists, followed by those of the personalised sources.

        Args:
            ann: [B, K] item rows of the index, -1 for none.
        """
        source_stride = n_checkouts * n_items
        neighbour_keys, neighbour_scores = personal.neighbour_keys, personal.neighbour_scores
        if len(self.excluded_shifts) > 0:
            excluded: list[Tensor] = []
            for shift in self.excluded_shifts:
                excluded.append(personal.own_keys + shift * source_stride)
            excluded_keys = excluded[0] if len(excluded) == 1 else torch.cat(excluded)
            kept = (~contains(excluded_keys, neighbour_keys)).nonzero().squeeze(1)
            neighbour_keys = neighbour_keys.index_select(0, kept)
            neighbour_scores = neighbour_scores.index_select(0, kept)
        neighbours = rank_by_source(neighbour_keys, neighbour_scores, n_items, n_checkouts)
        personalised = top_proposals(
            personal.own_items,
            neighbours,
            self.source_limits,
            self.source_bits,
            self.rank_offset,
            source_stride,
        )
        everyone = global_proposals(
            ann, self.ann_bit, self.global_items, self.global_source_bits, self.global_ranks, n_items
        )
        return everyone, personalised

    def personal_scores(self, query: Query, leaf: Tensor) -> PersonalScores:
        """Scores of the personalised sources for B checkouts. `leaf` [N+1] is Catalog.leaf."""
        n_checkouts, n_items = query.ts.numel(), leaf.numel()
        source_stride = n_checkouts * n_items
        basket_keys = segment_ids(query.basket_offsets) * n_items  # [ΣK], key of item 0 of the checkout
        unit_weight = torch.ones_like(query.basket_price)
        own_keys, counts = self.own_event_counts(query, basket_keys, unit_weight, n_items)
        own_items = rank_by_source(own_keys, counts, n_items, n_checkouts)
        inputs = SeedInputs(
            query.basket_item,
            basket_keys,
            unit_weight,
            leaf,
            query.history_offsets,
            query.history_item,
            query.history_ts,
            query.history_kind,
            own_items,
            n_items,
            source_stride,
        )
        rows: list[Tensor] = []
        base_keys: list[Tensor] = []
        weights: list[Tensor] = []
        for seeds in self.list_seeds:
            list_seeds = seeds(inputs)
            rows.append(list_seeds.row)
            base_keys.append(list_seeds.base_key)
            weights.append(list_seeds.weight)
        if len(rows) == 0:
            return PersonalScores(own_keys, own_items, own_keys[:0], counts[:0])
        neighbour_keys, neighbour_scores = sum_lists(
            self.list_offsets,
            self.list_items,
            self.list_scores,
            torch.cat(rows),
            torch.cat(base_keys),
            torch.cat(weights),
        )
        return PersonalScores(own_keys, own_items, neighbour_keys, neighbour_scores)

    def own_event_counts(
        self, query: Query, basket_keys: Tensor, unit_weight: Tensor, n_items: int
    ) -> tuple[Tensor, Tensor]:
        """Counts the user's own events by ranking and item. Returns rising keys [U] and decayed counts [U].

        Args:
            basket_keys: [ΣK] key of item 0 of each basket line's checkout.
            unit_weight: [ΣK] ones.
        """
        checkout = segment_ids(query.history_offsets)  # [ΣH]
        age = seconds_to_days((query.ts.index_select(0, checkout) - query.history_ts).clamp_min(0))
        keys: list[Tensor] = []
        weights: list[Tensor] = []
        for counter in self.event_counters:
            key, weight = counter(query, checkout, age, n_items)
            keys.append(key)
            weights.append(weight)
        for ranking in self.basket_rankings:
            key = basket_keys + query.basket_item
            keys.append(key if ranking == 0 else key + ranking * query.ts.numel() * n_items)
            weights.append(unit_weight)
        if len(keys) == 0:
            return basket_keys[:0], unit_weight[:0]
        return sum_by_key(torch.cat(keys), torch.cat(weights))

    def score_by_source(self, personal: PersonalScores, candidate_keys: Tensor, source_stride: int) -> Tensor:
        """Returns each key's scores [n, K] by the K scored sources, 0 for none.

        A key [n] is `checkout * n_items + item`.
        """
        shifts = self.score_positions.unsqueeze(1) * source_stride  # negative keys match nothing
        keys = shifts + candidate_keys  # [K, n]
        scores = lookup(personal.neighbour_keys, personal.neighbour_scores, keys.flatten())
        return scores.view(keys.shape).t().contiguous()

    def with_item_rows(self, count: int) -> "CandidateSources":
        """Returns a copy whose tables have `count` item rows (N+1). The lists of new rows are empty."""
        extended = copy.deepcopy(self)
        added = count - self.n_items
        extended.n_items = count
        for counter in extended.event_counters:
            assert isinstance(counter, EventCounter)
            counter.extend_items(added)
        added_rows = [added if by_item else 0 for by_item in self.lists_by_item]
        extended.list_first_rows, extended.list_offsets = pad_lists(
            self.list_first_rows, self.list_offsets, added_rows
        )
        for seeds, first_row in zip(extended.list_seeds, extended.list_first_rows, strict=True):
            assert isinstance(seeds, BasketItemSeeds | BasketCategorySeeds | OwnItemSeeds | RecentItemSeeds)
            seeds.first_row = first_row
        return extended


def _named(name: str, read: Callable[[SourceInputs], T], inputs: SourceInputs) -> T:
    """The tables that the source `name` reads from `inputs`. Raises ValueError, which names the source."""
    try:
        return read(inputs)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
