"""Seven candidate sources fused into one candidate list per checkout.

The same module gathers candidates for training in batches and, scripted, for one request in serving.
Its tables (popular items, new items, item lists) belong to one snapshot date.

    ann, popularity, recency ───────────────────────────────╮
    history, basket ─ counts ─▶ buy_again, recency ─────────┤
                        │ own items                         ├─▶ fusion
                        ▼                                   │
    basket ────────── lists ─▶ co_purchase, category, ease ─╯

All sources of a row of this picture share their operations, because a request pays for each operation.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.candidates.event_sources import decayed_item_counts
from models.candidates.fusion import fuse, global_proposals, top_proposals
from models.candidates.item_lists import ItemLists, concat_lists
from models.candidates.keys import SourceRanking, rank_by_source, split_keys
from models.candidates.list_sources import category_seeds, co_purchase_seeds, ease_seeds, sum_lists
from models.candidates.names import EVENT_SOURCES, GLOBAL_SOURCES, PERSONALISED_SOURCES, source_bit
from models.embeddings import gather_rows_int8
from models.jagged import contains, lookup, segment_ids, segment_offsets
from models.schema import HISTORY_KINDS, Candidates, Catalog, Query

MAX_SEED_ITEMS = 100  # own items, the most frequent and recent, whose EASE neighbours are proposed
VIEW_HALF_LIFE_DAYS = 7.0  # days in which a click or cart event loses half its weight


@dataclass(frozen=True)
class CandidateTables:
    """Tables of one snapshot date."""

    popular_items: Tensor  # [Kp] int64, by falling popularity
    new_items: Tensor  # [Kr] int64, recently first sold, by falling popularity
    copurchase_neighbours: ItemLists  # by item: items bought with or after it
    leaf_bestsellers: ItemLists  # by leaf category: its items by falling popularity (`bestseller_lists`)
    ease_neighbours: ItemLists  # by item: items that its buyers buy, too (data/examples/ease_neighbours.py)


@dataclass(frozen=True)
class SourceLimits:
    """Numbers of proposals of the personalised sources per checkout; a field for each.

    `recency` limits the items that the user viewed; all new items are proposed besides. The lengths of
    `popular_items` and of a row of `ann` limit the global sources.
    """

    buy_again: int = 150
    recency: int = 20
    co_purchase: int = 50
    category: int = 30
    ease: int = 50


class PersonalScores(NamedTuple):
    """Scores of the personalised sources, before their limits."""

    own_keys: Tensor  # [U] int64, rising: items that the user bought or viewed
    own_items: SourceRanking  # [U] the same, ranked
    neighbour_keys: Tensor  # [V] int64, rising: items in the lists of the seeds
    neighbour_scores: Tensor  # [V] float32


class CandidateSources(nn.Module):
    """Fused proposals of all sources.

    Args:
        tables: of one snapshot date.
        limits: of the personalised sources.
        buy_again_half_life: days in which a past purchase loses half its weight.
        max_candidates: candidates per checkout after fusion; None for all.
    """

    new_item_mask: Tensor
    global_items: Tensor
    global_source_bits: Tensor
    global_ranks: Tensor
    list_offsets: Tensor
    list_items: Tensor
    list_scores: Tensor
    decay_rates: Tensor
    n_seed_items: Tensor
    rank_discount: Tensor
    source_limits: Tensor
    rank_offset: Tensor
    source_bits: Tensor

    def __init__(
        self,
        tables: CandidateTables,
        limits: SourceLimits,
        buy_again_half_life: float = 60.0,
        max_candidates: int | None = None,
    ) -> None:
        super().__init__()
        self.max_candidates = max_candidates
        self.ann_bit = source_bit("ann")
        self._register_global_lists(tables)
        self.list_row_offsets, lists = concat_lists(
            [tables.copurchase_neighbours, tables.leaf_bestsellers, tables.ease_neighbours]
        )
        self.register_buffer("list_offsets", lists.offsets)
        self.register_buffer("list_items", lists.item)
        self.register_buffer("list_scores", lists.score)
        half_lives = [
            buy_again_half_life if kind == "purchase" else VIEW_HALF_LIFE_DAYS for kind in HISTORY_KINDS
        ]
        self.register_buffer("decay_rates", -1.0 / torch.tensor(half_lives))
        seeds = [MAX_SEED_ITEMS if source == "buy_again" else 0 for source in EVENT_SOURCES]
        self.register_buffer("n_seed_items", torch.tensor(seeds))
        self.register_buffer("rank_discount", (1.0 + torch.arange(MAX_SEED_ITEMS)).rsqrt())
        # By position in PERSONALISED_SOURCES. The new items precede the viewed ones in recency.
        n_new = tables.new_items.numel()
        source_limits = [getattr(limits, source) for source in PERSONALISED_SOURCES]
        rank_offset = [n_new if source == "recency" else 0 for source in PERSONALISED_SOURCES]
        source_bits = [source_bit(source) for source in PERSONALISED_SOURCES]
        self.register_buffer("source_limits", torch.tensor(source_limits))
        self.register_buffer("rank_offset", torch.tensor(rank_offset))
        self.register_buffer("source_bits", torch.tensor(source_bits))
        # Attributes, because TorchScript reads no module constants.
        self.co_purchase = PERSONALISED_SOURCES.index("co_purchase")
        self.category = PERSONALISED_SOURCES.index("category")
        self.ease = PERSONALISED_SOURCES.index("ease")

    def _register_global_lists(self, tables: CandidateTables) -> None:
        lists = {"popularity": tables.popular_items, "recency": tables.new_items}
        items = [lists[source] for source in GLOBAL_SOURCES]
        bits = [torch.full_like(lists[source], source_bit(source)) for source in GLOBAL_SOURCES]
        self.register_buffer("global_items", torch.cat(items))
        self.register_buffer("global_source_bits", torch.cat(bits))
        self.register_buffer("global_ranks", torch.cat([torch.arange(item.numel()) for item in items]))
        n_items = tables.copurchase_neighbours.offsets.numel() - 1
        new_item_mask = torch.zeros(n_items, dtype=torch.bool).index_fill(0, tables.new_items, True)
        self.register_buffer("new_item_mask", new_item_mask)

    def forward(self, query: Query, query_vector: Tensor, ann: Tensor, catalog: Catalog) -> Candidates:
        """Candidates of B checkouts: query_vector [B, D]; ann [B, K] item rows of the index, -1 for none."""
        n_checkouts, n_items = query.ts.numel(), catalog.leaf.numel()
        source_stride = n_checkouts * n_items
        personal = self.personal_scores(query, catalog.leaf)
        # EASE proposes items that the user has not bought yet.
        ease_own_keys = personal.own_keys + self.ease * source_stride
        not_bought = (~contains(ease_own_keys, personal.neighbour_keys)).nonzero().squeeze(1)
        neighbours = rank_by_source(
            personal.neighbour_keys.index_select(0, not_bought),
            personal.neighbour_scores.index_select(0, not_bought),
            n_items,
            n_checkouts,
        )
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
        keys, source_mask = fuse(everyone, personalised, catalog.available, self.max_candidates, n_checkouts)
        checkout, item = split_keys(keys, n_items, n_checkouts)
        item_vector = gather_rows_int8(catalog.vectors, item)  # [ΣC, D]
        vector = query_vector if n_checkouts == 1 else query_vector.index_select(0, checkout)
        score = (item_vector * vector).sum(1)
        copurchase_score, ease_score = self.copurchase_and_ease_scores(personal, keys, source_stride)
        offsets = segment_offsets(checkout, n_checkouts)
        return Candidates(offsets, item, source_mask, score, copurchase_score, ease_score)

    def personal_scores(self, query: Query, leaf: Tensor) -> PersonalScores:
        """Scores of the personalised sources for B checkouts; `leaf` [N+1] is Catalog.leaf."""
        n_checkouts, n_items = query.ts.numel(), leaf.numel()
        source_stride = n_checkouts * n_items
        basket_keys = segment_ids(query.basket_offsets) * n_items  # [ΣK], key of item 0 of the checkout
        own_keys, counts = decayed_item_counts(
            query, basket_keys, self.decay_rates, self.new_item_mask, n_items
        )
        own_items = rank_by_source(own_keys, counts, n_items, n_checkouts)
        unit_weight = torch.ones_like(query.basket_price)
        category_row, ease_row = self.list_row_offsets[1], self.list_row_offsets[2]
        neighbour_keys, neighbour_scores = sum_lists(
            self.list_offsets,
            self.list_items,
            self.list_scores,
            co_purchase_seeds(query, basket_keys, self.co_purchase * source_stride, unit_weight),
            category_seeds(
                query, basket_keys, self.category * source_stride, unit_weight, leaf, category_row
            ),
            ease_seeds(
                own_items, self.ease * source_stride, self.n_seed_items, self.rank_discount, n_items, ease_row
            ),
        )
        return PersonalScores(own_keys, own_items, neighbour_keys, neighbour_scores)

    def copurchase_and_ease_scores(
        self, personal: PersonalScores, candidate_keys: Tensor, source_stride: int
    ) -> tuple[Tensor, Tensor]:
        """Co-purchase and EASE scores [n] of keys [n] `checkout * n_items + item`, 0 for none."""
        keys = torch.cat(
            [
                candidate_keys + self.co_purchase * source_stride,
                candidate_keys + self.ease * source_stride,
            ]
        )
        scores = lookup(personal.neighbour_keys, personal.neighbour_scores, keys)
        return scores[: candidate_keys.numel()], scores[candidate_keys.numel() :]
