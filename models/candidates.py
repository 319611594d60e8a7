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
    segment_ids,
)

# Bit i of Candidates.source stands for SOURCES[i].
SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency", "collaborative")
SHARED = ("popularity", "recency")  # propose the same to everyone
WEIGHED = ("buy_again", "co_purchase", "category", "recency", "collaborative")  # by what a checkout says
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
    leaf_scores: Tensor
    shared: Tensor
    shared_bits: Tensor
    shared_places: Tensor

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
        leaf = segment_ids(leaf_offsets)
        height = 1.0 / (1.0 + (torch.arange(leaf.numel()) - leaf_offsets[leaf]))
        self.register_buffer("leaf_scores", height, persistent=False)  # those high in their list first
        # What everyone gets, from which source, and its place there.
        shared = [popular, recent]
        bits = [torch.full_like(items, bit(name)) for items, name in zip(shared, SHARED, strict=True)]
        places = [torch.arange(items.numel()) for items in shared]
        self.register_buffer("shared", torch.cat(shared), persistent=False)
        self.register_buffer("shared_bits", torch.cat(bits), persistent=False)
        self.register_buffer("shared_places", torch.cat(places), persistent=False)
        self.ann_bit, self.weighed_bits = bit("ann"), [bit(name) for name in WEIGHED]

    def forward(self, query: Query, query_vector: Tensor, ann: Tensor, catalog: Catalog) -> Candidates:
        """Candidates of B checkouts.

        query_vector is [B, D]; ann [B, K] item rows from the index, -1 for none.
        """
        count, items = query.ts.numel(), catalog.leaf.numel()
        paid = self.paid(query, items)

        # Buy again: own purchases by decayed count, the basket's at age zero.
        past = self.past(query, items)
        bought, total = self.own(query, paid, past)
        mine, mine_rank = best(bought, total, items, max(self.buy_again, self.heard), count)
        own = (mine_rank < self.buy_again).nonzero()[:, 0]

        # Recency: the shop's newcomers, and behind them what the user lately looked at.
        event, age, kind = past
        newcomer = (query.history_item.unsqueeze(1) == self.recent).any(1)
        looked = ((kind != 0) & ~newcomer).nonzero()[:, 0]
        recency = torch.exp2(-age.index_select(0, looked) / 7.0)
        seen, seen_weight = group_sum(event.index_select(0, looked), recency)
        seen, seen_rank = best(seen, seen_weight, items, self.recency, count)

        # Co-purchase: neighbours of the basket's items by summed affinity.
        pair, affinity = self.affinity(query, paid)
        together, together_rank = best(pair, affinity, items, self.co_purchase, count)

        # Collaborative: what buyers of the user's items also buy, of that what the user has not bought yet.
        peer, taste = self.taste(mine, mine_rank, items)
        new = (~contains(bought, peer)).nonzero()[:, 0]
        alike, alike_rank = best(
            peer.index_select(0, new), taste.index_select(0, new), items, self.collaborative, count
        )

        # Category: the bestsellers of the basket's leaf categories, those high in their list first.
        leaf, one = catalog.leaf.index_select(0, query.basket_item), torch.ones_like(query.basket_price)
        similar, height = spread(paid, leaf, one, self.leaf_offsets, self.leaf_items, self.leaf_scores)
        similar, similar_rank = best(similar, height, items, self.category, count)

        # Each source proposes an item once. Row 0, which stands for none, is not available.
        found = torch.cat([ann.clamp_min(0), self.shared.expand(count, -1)], dim=1)  # [B, K + shared]
        found = found + torch.arange(count, device=ann.device).unsqueeze(1) * items
        places = torch.arange(ann.shape[1], device=ann.device)
        found_bits = torch.cat([torch.full_like(places, self.ann_bit), self.shared_bits])
        weighed = [mine.index_select(0, own), together, similar, seen, alike]
        ranks = [
            torch.cat([places, self.shared_places]).expand(count, -1).flatten(),
            mine_rank.index_select(0, own), together_rank, similar_rank,
            seen_rank + self.recent.numel(), alike_rank,
        ]  # fmt: skip
        bits = [found_bits.expand(count, -1).flatten()]
        bits += [torch.full_like(key, self.weighed_bits[i]) for i, key in enumerate(weighed)]
        proposed = torch.cat([found.flatten()] + weighed)
        shown = catalog.available.index_select(0, proposed % items).nonzero()[:, 0]
        merged, inverse = torch.unique(proposed.index_select(0, shown), return_inverse=True)
        bitmask = torch.zeros_like(merged).index_add_(0, inverse, torch.cat(bits).index_select(0, shown))
        segment = merged // items
        if self.limit is not None:
            share = 1.0 / (60.0 + torch.cat(ranks).index_select(0, shown).to(torch.float32))
            fused = torch.zeros_like(merged, dtype=torch.float32).index_add_(0, inverse, share)
            kept = best_in_segment(segment, fused, self.limit, count)[0].sort()[0]
            merged, bitmask = merged.index_select(0, kept), bitmask.index_select(0, kept)
            segment = segment.index_select(0, kept)
        item = merged - segment * items
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

    def paid(self, query: Query, items: int) -> Tensor:
        """Of the lines just paid the key of their checkout's item 0 [ΣK]."""
        return segment_ids(query.basket_offsets) * items

    def past(self, query: Query, items: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of all events their keys `checkout * items + item` [ΣH], days ago [ΣH], and kinds [ΣH]."""
        history = segment_ids(query.history_offsets)  # [ΣH]
        age = days((query.ts.index_select(0, history) - query.history_ts).clamp_min(0))
        return history * items + query.history_item, age, query.history_kind

    def own(self, query: Query, paid: Tensor, past: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Rising keys `checkout * items + item` [U] of what each user bought, the basket included, and the
        decayed count of each [U]. `paid` and `past` as above."""
        event, age, kind = past
        bought = (kind == 0).nonzero()[:, 0]
        decayed = torch.exp2(-age.index_select(0, bought) / self.half_life)
        weight = torch.cat([decayed, torch.ones_like(query.basket_price)])
        return group_sum(torch.cat([event.index_select(0, bought), paid + query.basket_item]), weight)

    def affinity(self, query: Query, paid: Tensor) -> tuple[Tensor, Tensor]:
        """Rising keys `checkout * items + item` [U] of what is bought with the basket; how much [U]."""
        return spread(
            paid, query.basket_item, torch.ones_like(query.basket_price),
            self.neighbour_offsets, self.neighbour_items, self.neighbour_scores,
        )  # fmt: skip

    def taste(self, mine: Tensor, rank: Tensor, items: int) -> tuple[Tensor, Tensor]:
        """Rising keys [U] of what is liked by those who bought what the user did; how much [U].

        `mine` [n] are keys of what the users bought and `rank` [n] the rank of each by decayed count; those
        from PAST on are not heard. A weight by rank and not by age, so that it means the same to a user of
        many orders a week and to one of few a year.
        """
        heard = (rank < self.heard).nonzero()[:, 0]
        weight = (1.0 + rank.index_select(0, heard).to(torch.float32)).rsqrt()
        mine = mine.index_select(0, heard)
        item = mine % items
        return spread(mine - item, item, weight, self.peer_offsets, self.peer_items, self.peer_scores)


def bit(source: str) -> int:
    """What stands for one of SOURCES in Candidates.source."""
    return 1 << SOURCES.index(source)


def spread(
    first: Tensor, row: Tensor, weight: Tensor, offsets: Tensor, listed: Tensor, score: Tensor
) -> tuple[Tensor, Tensor]:
    """What the rows [n] of a jagged table list for their checkouts: rising keys [U], summed scores [U].

    `first` [n] is the key of item 0 of a row's checkout, and `weight` [n] what the row's scores count.
    """
    position, owner, _ = gather_segments(offsets, row)
    near = first.index_select(0, owner) + listed.index_select(0, position)
    return group_sum(near, score.index_select(0, position) * weight.index_select(0, owner))


def best(keys: Tensor, score: Tensor, items: int, limit: int, count: int) -> tuple[Tensor, Tensor]:
    """Of rising keys `checkout * items + item` [n] of `count` checkouts, the `limit` with the highest score
    of each, and their ranks there, 0 for the highest."""
    segments = keys if count == 1 else keys // items  # one alone needs none
    position, rank = best_in_segment(segments, score, limit, count)
    return keys.index_select(0, position), rank
