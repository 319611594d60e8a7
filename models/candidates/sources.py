"""Seven retrieval sources merged into one candidate list per checkout.

The same module gathers candidates for training in batches and, scripted, for one request in serving.
Its tables (what is popular, new, bought together) belong to one snapshot date.

    ann, popularity, recency ───────────────────────────────╮
    history, basket ─ counts ─▶ buy_again, recency ─────────┤
                        │ own items                         ├─▶ merged, the best kept
                        ▼                                   │
    basket ────────── lists ─▶ co_purchase, category, ease
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.embeddings import gather_rows_int8
from models.jagged import (
    contains,
    gather_segments,
    lookup,
    segment_ids,
    segment_offsets,
    sort_by_segment_and_score,
    sum_by_key,
    top_k_in_segment,
)
from models.schema import HISTORY_KINDS, Candidates, Catalog, Query, seconds_to_days

# Bit i of Candidates.source stands for SOURCES[i].
CANDIDATE_SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency", "ease")
GLOBAL_SOURCES = ("popularity", "recency")  # propose the same to everyone
# These propose by what a checkout says. All are counted at once, each as a group of its own: the key of an
# item is (group * checkouts + checkout) * items + item. The first two count events, the others add up lists.
PERSONALISED_SOURCES = ("buy_again", "recency", "co_purchase", "category", "ease")
BUY_AGAIN, RECENCY, CO_PURCHASE, CATEGORY, EASE = range(len(PERSONALISED_SOURCES))
MAX_SEED_ITEMS = 100  # own items, the most frequent and recent, that speak for others
VIEW_HALF_LIFE_DAYS = 7.0  # days in which a click or cart event loses half its weight


class ItemLists(NamedTuple):
    """For each of R rows (items, or leaf categories) the items that go with it."""

    offsets: Tensor  # [R+1] int64
    item: Tensor  # [ΣM] int64
    score: Tensor  # [ΣM] float32


class SourceRanking(NamedTuple):
    """n items of checkouts, group by group and checkout by checkout, the highest score first."""

    key: Tensor  # [n] int64
    rank: Tensor  # [n] int64, 0 for the highest of its group and checkout
    source: Tensor  # [n] int64, position in GROUPS


class CandidateSources(nn.Module):
    """Proposals of every source, deduplicated, with the sources kept as a bit mask.

    With a `limit`, as many per checkout are kept, by the sum of 1 / (60 + rank) over the sources that propose
    an item (reciprocal rank fusion, Cormack et al., SIGIR 2009): ranks need no common scale.

    Args:
        popular: [Kp] items by falling popularity.
        recent: [Kr] items that were first sold lately, by falling popularity.
        neighbours: by item those bought with or after it.
        leaves: by leaf category its items by falling popularity (`bestsellers`).
        peers: by item those that its buyers also buy, in whichever order (item-to-item weights,
            data/examples/ease_neighbours.py).
        buy_again, co_purchase, category, ease: how many each of these sources may propose per
            checkout. The length of `popular` and the columns of `ann` limit those two.
        recency: how many items that the user lately looked at are proposed, beside all of `recent`.
        buy_again_half_life: days in which a past purchase loses half its weight in buy-again.
        limit: candidates per checkout; None for all.
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
        popular_items: Tensor,
        new_items: Tensor,
        copurchase_neighbours: ItemLists,
        leaf_bestsellers: ItemLists,
        ease_neighbours: ItemLists,
        buy_again: int = 150,
        co_purchase: int = 50,
        category: int = 30,
        recency: int = 20,
        ease: int = 50,
        buy_again_half_life: float = 60.0,
        max_candidates: int | None = None,
    ) -> None:
        super().__init__()
        self.max_candidates = max_candidates
        self.ann_bit = source_bit("ann")
        # What everyone gets, from which source, and its place there.
        shared = [popular_items, new_items]
        bits = [
            torch.full_like(items, source_bit(name))
            for items, name in zip(shared, GLOBAL_SOURCES, strict=True)
        ]
        self.register_buffer("global_items", torch.cat(shared))
        self.register_buffer("global_source_bits", torch.cat(bits))
        self.register_buffer("global_ranks", torch.cat([torch.arange(items.numel()) for items in shared]))
        newcomer = torch.zeros(copurchase_neighbours.offsets.numel() - 1, dtype=torch.bool)
        self.register_buffer("new_item_mask", newcomer.index_fill(0, new_items, True))
        self.list_row_offsets, lists = concat_lists(
            [copurchase_neighbours, leaf_bestsellers, ease_neighbours]
        )
        self.register_buffer("list_offsets", lists.offsets)
        self.register_buffer("list_items", lists.item)
        self.register_buffer("list_scores", lists.score)
        half_lives = [
            buy_again_half_life if kind == "purchase" else VIEW_HALF_LIFE_DAYS for kind in HISTORY_KINDS
        ]
        self.register_buffer("decay_rates", -1.0 / torch.tensor(half_lives))
        self.register_buffer(
            "n_seed_items", torch.tensor([MAX_SEED_ITEMS, 0])
        )  # of what was bought and looked at
        # By rank and not by age, so that it means the same to a user of many orders a week and of few a year.
        self.register_buffer("rank_discount", (1.0 + torch.arange(MAX_SEED_ITEMS)).rsqrt())
        self.register_buffer("source_limits", torch.tensor([buy_again, recency, co_purchase, category, ease]))
        self.register_buffer(
            "rank_offset", torch.tensor([0, new_items.numel(), 0, 0, 0])
        )  # the shop's newcomers
        self.register_buffer("source_bits", torch.tensor([source_bit(name) for name in PERSONALISED_SOURCES]))
        self.co_purchase, self.category, self.ease = CO_PURCHASE, CATEGORY, EASE

    def forward(self, query: Query, query_vector: Tensor, ann: Tensor, catalog: Catalog) -> Candidates:
        """Candidates of B checkouts.

        query_vector is [B, D]; ann [B, K] item rows from the index, -1 for none.
        """
        count, items = query.ts.numel(), catalog.leaf.numel()
        span = count * items  # keys of a group
        paid = segment_ids(query.basket_offsets) * items  # [ΣK], of the lines just paid
        past, weight = self.decayed_item_counts(query, paid, items)
        mine = rank_by_source(past, weight, items, count)
        listed, strength = self.neighbour_scores(query, paid, mine, catalog.leaf)

        # Taste proposes what the user has not bought yet.
        new = (~contains(past + self.ease * span, listed)).nonzero().squeeze(1)
        near = rank_by_source(listed.index_select(0, new), strength.index_select(0, new), items, count)
        group = torch.cat([mine.source, near.source])
        rank = torch.cat([mine.rank, near.rank])
        best = (rank < self.source_limits.index_select(0, group)).nonzero().squeeze(1)
        group, rank = group.index_select(0, best), rank.index_select(0, best)
        key = torch.cat([mine.key, near.key]).index_select(0, best) - group * span

        # Each source proposes an item once. Row 0, which stands for none, is not available.
        found = torch.cat([ann.clamp_min(0), self.global_items.expand(count, -1)], dim=1)  # [B, K + shared]
        if count > 1:
            found = found + torch.arange(count, device=ann.device).unsqueeze(1) * items
        places = torch.arange(ann.shape[1], device=ann.device)
        found_bits = torch.cat([torch.full_like(places, self.ann_bit), self.global_source_bits])
        found_places = torch.cat([places, self.global_ranks])
        proposed = torch.cat([found.flatten(), key])
        bits = torch.cat([found_bits.expand(count, -1).flatten(), self.source_bits.index_select(0, group)])
        shown = catalog.available.index_select(0, split_keys(proposed, items, count)[1]).nonzero().squeeze(1)
        merged, inverse = torch.unique(proposed.index_select(0, shown), return_inverse=True)
        bitmask = torch.zeros_like(merged).index_add_(0, inverse, bits.index_select(0, shown))
        if self.max_candidates is not None:
            behind = rank + self.rank_offset.index_select(0, group)
            places = torch.cat([found_places.expand(count, -1).flatten(), behind]).index_select(0, shown)
            share = (60.0 + places).reciprocal()
            fused = torch.zeros_like(merged, dtype=torch.float32).index_add_(0, inverse, share)
            segment, _ = split_keys(merged, items, count)
            kept = top_k_in_segment(segment, fused, self.max_candidates, count)
            merged, bitmask = merged.index_select(0, kept), bitmask.index_select(0, kept)
        segment, item = split_keys(merged, items, count)
        vector = gather_rows_int8(catalog.vectors, item)  # [ΣC, D]
        asking = query_vector if count == 1 else query_vector.index_select(0, segment)
        score = (vector * asking).sum(1)
        affinity, taste = self.copurchase_and_ease_scores(listed, strength, merged, span)
        return Candidates(segment_offsets(segment, count), item, bitmask, score, affinity, taste)

    def decayed_item_counts(self, query: Query, paid: Tensor, items: int) -> tuple[Tensor, Tensor]:
        """Rising keys [U] of what each user bought, the basket at age zero included, and looked at; the
        decayed count of each [U]. `paid` [ΣK] is the key of item 0 of each paid line's checkout.

        What the shop newly sells is proposed to everyone and left out of what was looked at.
        """
        history = segment_ids(query.history_offsets)  # [ΣH]
        age = seconds_to_days((query.ts.index_select(0, history) - query.history_ts).clamp_min(0))
        looked = query.history_kind != 0
        kept = (~(looked & self.new_item_mask.index_select(0, query.history_item))).nonzero().squeeze(1)
        key = (looked * query.ts.numel() + history) * items + query.history_item
        weight = torch.exp2(age * self.decay_rates.index_select(0, query.history_kind))
        return sum_by_key(
            torch.cat([key.index_select(0, kept), paid + query.basket_item]),
            torch.cat([weight.index_select(0, kept), torch.ones_like(query.basket_price)]),
        )

    def neighbour_scores(
        self, query: Query, paid: Tensor, own_items: SourceRanking, leaf: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rising keys [U] of what is bought with the basket, is liked in its leaf categories, and is bought
        by those who bought what the user did; how much of each [U]. `paid` as above, `leaf` the catalog's.

        Of the user's own items the best PAST are heard.
        """
        items, line, one = leaf.numel(), query.basket_item, torch.ones_like(query.basket_price)
        span = query.ts.numel() * items
        heard = (own_items.rank < self.n_seed_items.index_select(0, own_items.source)).nonzero().squeeze(1)
        own = own_items.key.index_select(0, heard)
        item = own % items
        row = torch.cat(
            [line, self.list_row_offsets[1] + leaf.index_select(0, line), self.list_row_offsets[2] + item]
        )
        first = torch.cat(  # the key of item 0 of its checkout
            [paid + self.co_purchase * span, paid + self.category * span, own - item + self.ease * span]
        )
        weight = torch.cat(
            [one, one, self.rank_discount.index_select(0, own_items.rank.index_select(0, heard))]
        )
        position, owner, _ = gather_segments(self.list_offsets, row)
        return sum_by_key(
            first.index_select(0, owner) + self.list_items.index_select(0, position),
            self.list_scores.index_select(0, position) * weight.index_select(0, owner),
        )

    def copurchase_and_ease_scores(
        self, neighbour_keys: Tensor, neighbour_scores: Tensor, candidate_keys: Tensor, span: int
    ) -> tuple[Tensor, Tensor]:
        """Affinity with the basket and taste [n] of `asked` keys [n] `checkout * items + item`, of what
        `listed` gave; `span` is the keys of a group."""
        keys = torch.cat([candidate_keys + self.co_purchase * span, candidate_keys + self.ease * span])
        found = lookup(neighbour_keys, neighbour_scores, keys)
        return found[: candidate_keys.numel()], found[candidate_keys.numel() :]


def source_bit(source: str) -> int:
    """What stands for one of SOURCES in Candidates.source."""
    return 1 << CANDIDATE_SOURCES.index(source)


def bestseller_lists(offsets: Tensor, item: Tensor) -> ItemLists:
    """Lists of items, best first, that count 1 / (1 + place)."""
    place = torch.arange(item.numel()) - offsets[segment_ids(offsets)]
    return ItemLists(offsets, item, 1.0 / (1.0 + place))


def concat_lists(tables: Sequence[ItemLists]) -> tuple[list[int], ItemLists]:
    """Lists one below the other, and the first row of each; a row without items separates them."""
    rows, offsets, items = [0], [tables[0].offsets], tables[0].item.numel()
    for table in tables[1:]:
        rows.append(rows[-1] + offsets[-1].numel())
        offsets.append(table.offsets + items)
        items += table.item.numel()
    joined = ItemLists(
        torch.cat(offsets), torch.cat([t.item for t in tables]), torch.cat([t.score for t in tables])
    )
    return rows, joined


def split_keys(keys: Tensor, items: int, count: int) -> tuple[Tensor, Tensor]:
    """Checkouts [n] and items [n] of keys `checkout * items + item` [n] of `count` checkouts."""
    if count == 1:  # one request: four operations less
        return torch.zeros_like(keys), keys
    segment = keys // items
    return segment, keys - segment * items


def rank_by_source(keys: Tensor, score: Tensor, items: int, count: int) -> SourceRanking:
    """Rising keys [n] of `count` checkouts by falling score [n]; between equals the first item."""
    order, segment, rank = sort_by_segment_and_score(keys // items, score)
    return SourceRanking(keys.index_select(0, order), rank, segment if count == 1 else segment // count)
