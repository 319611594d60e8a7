"""Seven retrieval sources merged into one candidate list per checkout.

The same module gathers candidates for training in batches and, scripted, for one request in serving.
Its tables (what is popular, new, bought together) belong to one snapshot date.
"""

import torch
from torch import Tensor, nn

from models.embeddings import rows_int8
from models.inputs import Candidates, Catalog, Query, days
from models.jagged import (
    best_in_segment,
    contains,
    gather_segments,
    group_sum,
    lookup,
    offsets_of,
    rank_in_segment,
    segment_ids,
)

# Bit i of Candidates.source stands for SOURCES[i].
SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency", "collaborative")
PAST = 100  # own items, the most frequent and recent, that speak for others


class CandidateSources(nn.Module):
    """Proposals of every source, deduplicated, with the sources kept as a bit mask.

    With a `limit`, as many per checkout are kept, by the sum of 1 / (60 + rank) over the sources that propose
    an item (reciprocal rank fusion, Cormack et al., SIGIR 2009): ranks need no common scale.

    Args:
        popular: [Kp] items by falling popularity.
        recent: [Kr] items that were first sold lately, by falling popularity.
        leaf_offsets, leaf_items: for each leaf category its items by falling popularity, jagged.
        neighbour_offsets, neighbour_items, neighbour_scores: for each item those bought with or after it.
        peer_offsets, peer_items, peer_scores: for each item those that its buyers also buy, in whichever
            order (item-to-item weights, data/collaborative.py), jagged.
        buy_again, co_purchase, category, collaborative: how many each of these sources may propose per
            checkout. The length of `popular` and the columns of `ann` limit those two.
        recency: how many items that the user lately looked at are proposed, beside all of `recent`.
        half_life: days in which a past purchase loses half its weight in buy-again.
        limit: candidates per checkout; None for all.
    """

    popular: Tensor
    recent: Tensor
    leaf_offsets: Tensor
    leaf_items: Tensor
    neighbour_offsets: Tensor
    neighbour_items: Tensor
    neighbour_scores: Tensor
    peer_offsets: Tensor
    peer_items: Tensor
    peer_scores: Tensor

    def __init__(
        self,
        popular: Tensor,
        recent: Tensor,
        leaf_offsets: Tensor,
        leaf_items: Tensor,
        neighbour_offsets: Tensor,
        neighbour_items: Tensor,
        neighbour_scores: Tensor,
        peer_offsets: Tensor,
        peer_items: Tensor,
        peer_scores: Tensor,
        buy_again: int = 150,
        co_purchase: int = 50,
        category: int = 30,
        recency: int = 20,
        collaborative: int = 50,
        half_life: float = 60.0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.buy_again, self.co_purchase = buy_again, co_purchase
        self.category, self.recency = category, recency
        self.collaborative = collaborative
        self.half_life = half_life
        self.heard = PAST
        self.limit = limit
        self.register_buffer("popular", popular)
        self.register_buffer("recent", recent)
        self.register_buffer("leaf_offsets", leaf_offsets)
        self.register_buffer("leaf_items", leaf_items)
        self.register_buffer("neighbour_offsets", neighbour_offsets)
        self.register_buffer("neighbour_items", neighbour_items)
        self.register_buffer("neighbour_scores", neighbour_scores)
        self.register_buffer("peer_offsets", peer_offsets)
        self.register_buffer("peer_items", peer_items)
        self.register_buffer("peer_scores", peer_scores)

    def forward(self, query: Query, query_vector: Tensor, ann: Tensor, catalog: Catalog) -> Candidates:
        """Candidates of B checkouts.

        query_vector is [B, D]; ann [B, K] item rows from the index, -1 for none.
        """
        count, items = query.ts.numel(), catalog.leaf.numel()
        checkout = torch.arange(count, device=ann.device)
        paid = segment_ids(query.basket_offsets)  # [ΣK]

        # Buy again: own purchases by decayed count, the basket's at age zero.
        past = self.past(query, items)
        bought, total = self.own(query, items, past)
        mine, mine_rank = best(bought, total, items, max(self.buy_again, self.heard), count)
        own = mine_rank < self.buy_again

        # Recency: the shop's newcomers, and behind them what the user lately looked at.
        fresh = ((checkout * items).unsqueeze(1) + self.recent).flatten()
        event, age, kind = past
        looked = (kind != 0).nonzero()[:, 0]
        recency = torch.exp2(-age.index_select(0, looked) / 7.0)
        seen, seen_weight = group_sum(event.index_select(0, looked), recency)
        old = (~contains(fresh.sort()[0], seen)).nonzero()[:, 0]
        seen, seen_rank = best(
            seen.index_select(0, old), seen_weight.index_select(0, old), items, self.recency, count
        )

        # Co-purchase: neighbours of the basket's items by summed affinity.
        pair, affinity = self.affinity(query, items)
        together, together_rank = best(pair, affinity, items, self.co_purchase, count)

        # Collaborative: what buyers of the user's items also buy, of that what the user has not bought yet.
        peer, taste = self.taste(mine, mine_rank, items)
        new = (~contains(bought, peer)).nonzero()[:, 0]
        alike, alike_rank = best(
            peer.index_select(0, new), taste.index_select(0, new), items, self.collaborative, count
        )

        # Category: the bestsellers of the basket's leaf categories, those high in their list first.
        position, line, lengths = gather_segments(self.leaf_offsets, catalog.leaf[query.basket_item])
        start = (lengths.cumsum(0) - lengths).index_select(0, line)
        height = 1.0 / (1.0 + (torch.arange(position.numel(), device=ann.device) - start))
        leaf_key = paid.index_select(0, line) * items + self.leaf_items.index_select(0, position)
        leaf, leaf_height = group_sum(leaf_key, height)
        similar, similar_rank = best(leaf, leaf_height, items, self.category, count)

        near = ann >= 0  # [B, K]
        hits = (checkout * items).unsqueeze(1) + self.popular
        proposed = [
            ((checkout * items).unsqueeze(1) + ann)[near],
            mine[own],
            together,
            similar,
            hits.flatten(),
            torch.cat([fresh, seen]),
            alike,
        ]  # as in SOURCES; each proposes an item once
        places = torch.arange(max(ann.shape[1], self.popular.numel(), self.recent.numel()), device=ann.device)
        ranks = [
            places[: ann.shape[1]].expand_as(ann)[near],
            mine_rank[own],
            together_rank,
            similar_rank,
            places[: self.popular.numel()].repeat(count),
            torch.cat([places[: self.recent.numel()].repeat(count), seen_rank + self.recent.numel()]),
            alike_rank,
        ]
        bits = torch.cat([torch.full_like(key, 1 << i) for i, key in enumerate(proposed)])
        merged, inverse = torch.unique(torch.cat(proposed), return_inverse=True)
        bitmask = torch.zeros_like(merged).index_add_(0, inverse, bits)
        keep = catalog.available.index_select(0, merged % items)
        if self.limit is not None:
            share = 1.0 / (60.0 + torch.cat(ranks).to(torch.float32))
            fused = torch.zeros_like(merged, dtype=torch.float32).index_add_(0, inverse, share)
            fused = fused.masked_fill(~keep, 0.0)
            keep = keep & (rank_in_segment(merged // items, fused, count) < self.limit)
        kept = keep.nonzero()[:, 0]
        merged, bitmask = merged.index_select(0, kept), bitmask.index_select(0, kept)
        segment, item = merged // items, merged % items
        vector = rows_int8(catalog.vectors, item)  # [ΣC, D]
        score = (vector * query_vector.index_select(0, segment)).sum(1)
        return Candidates(
            offsets_of(segment, count),
            item,
            bitmask,
            score,
            lookup(pair, affinity.unsqueeze(1), merged)[:, 0],
            lookup(peer, taste.unsqueeze(1), merged)[:, 0],
        )

    def past(self, query: Query, items: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of all events their keys `checkout * items + item` [ΣH], days ago [ΣH], and kinds [ΣH]."""
        history = segment_ids(query.history_offsets)  # [ΣH]
        age = days((query.ts.index_select(0, history) - query.history_ts).clamp_min(0))
        return history * items + query.history_item, age, query.history_kind

    def own(self, query: Query, items: int, past: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Rising keys `checkout * items + item` [U] of what each user bought, the basket included, and the
        decayed count of each [U]. `past` as above."""
        event, age, kind = past
        bought = (kind == 0).nonzero()[:, 0]
        line = segment_ids(query.basket_offsets) * items + query.basket_item
        decayed = torch.exp2(-age.index_select(0, bought) / self.half_life)
        weight = torch.cat([decayed, torch.ones_like(query.basket_price)])
        return group_sum(torch.cat([event.index_select(0, bought), line]), weight)

    def affinity(self, query: Query, items: int) -> tuple[Tensor, Tensor]:
        """Rising keys `checkout * items + item` [U] of what is bought with the basket; how much [U]."""
        line = segment_ids(query.basket_offsets) * items + query.basket_item
        weight = torch.ones_like(query.basket_price)
        return spread(
            line, weight, items, self.neighbour_offsets, self.neighbour_items, self.neighbour_scores
        )

    def taste(self, mine: Tensor, rank: Tensor, items: int) -> tuple[Tensor, Tensor]:
        """Rising keys [U] of what is liked by those who bought what the user did; how much [U].

        `mine` [n] are keys of what the users bought and `rank` [n] the rank of each by decayed count; those
        from PAST on are not heard. A weight by rank and not by age, so that it means the same to a user of
        many orders a week and to one of few a year.
        """
        heard = (rank < self.heard).nonzero()[:, 0]
        weight = (1.0 + rank.index_select(0, heard).to(torch.float32)).rsqrt()
        mine = mine.index_select(0, heard)
        return spread(mine, weight, items, self.peer_offsets, self.peer_items, self.peer_scores)


def spread(
    keys: Tensor, weight: Tensor, items: int, offsets: Tensor, neighbour: Tensor, score: Tensor
) -> tuple[Tensor, Tensor]:
    """From items to their neighbours: keys `checkout * items + item` [n] with a weight each [n] to the rising
    keys of the same checkouts' neighbours [U] and their summed scores [U]."""
    item = keys % items
    position, owner, _ = gather_segments(offsets, item)
    near = (keys - item).index_select(0, owner) + neighbour.index_select(0, position)
    return group_sum(near, score.index_select(0, position) * weight.index_select(0, owner))


def best(keys: Tensor, score: Tensor, items: int, limit: int, count: int) -> tuple[Tensor, Tensor]:
    """Of rising keys `checkout * items + item` [n] of `count` checkouts, the `limit` with the highest score
    of each, and their ranks there, 0 for the highest."""
    position, rank = best_in_segment(keys // items, score, limit, count)
    return keys.index_select(0, position), rank
