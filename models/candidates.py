"""Six retrieval sources merged into one candidate list per checkout.

The same module gathers candidates for training in batches and, scripted, for one request in serving.
Its tables (what is popular, new, bought together) belong to one snapshot date.
"""

import torch
from torch import Tensor, nn

from models.embeddings import rows_int8
from models.inputs import Candidates, Catalog, Query, days
from models.jagged import gather_segments, group_sum, lookup, offsets_of, rank_in_segment, segment_ids

# Bit i of Candidates.source stands for SOURCES[i].
SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency")


class CandidateSources(nn.Module):
    """Proposals of every source, deduplicated, with the sources kept as a bit mask.

    Args:
        popular: [Kp] items by falling popularity.
        recent: [Kr] items that were first sold lately, by falling popularity.
        leaf_offsets, leaf_items: for each leaf category its items by falling popularity, jagged.
        neighbour_offsets, neighbour_items, neighbour_scores: for each item those bought with it, jagged.
        buy_again, co_purchase, category: how many each of these sources may propose per checkout. The
            length of `popular` and the columns of `ann` limit those two.
        recency: how many items that the user lately looked at are proposed, beside all of `recent`.
        half_life: days in which a past purchase loses half its weight in buy-again.
    """

    popular: Tensor
    recent: Tensor
    leaf_offsets: Tensor
    leaf_items: Tensor
    neighbour_offsets: Tensor
    neighbour_items: Tensor
    neighbour_scores: Tensor

    def __init__(
        self,
        popular: Tensor,
        recent: Tensor,
        leaf_offsets: Tensor,
        leaf_items: Tensor,
        neighbour_offsets: Tensor,
        neighbour_items: Tensor,
        neighbour_scores: Tensor,
        buy_again: int = 150,
        co_purchase: int = 50,
        category: int = 30,
        recency: int = 20,
        half_life: float = 60.0,
    ) -> None:
        super().__init__()
        self.buy_again, self.co_purchase = buy_again, co_purchase
        self.category, self.recency = category, recency
        self.half_life = half_life
        self.register_buffer("popular", popular)
        self.register_buffer("recent", recent)
        self.register_buffer("leaf_offsets", leaf_offsets)
        self.register_buffer("leaf_items", leaf_items)
        self.register_buffer("neighbour_offsets", neighbour_offsets)
        self.register_buffer("neighbour_items", neighbour_items)
        self.register_buffer("neighbour_scores", neighbour_scores)

    def forward(self, query: Query, query_vector: Tensor, ann: Tensor, catalog: Catalog) -> Candidates:
        """Candidates of B checkouts.

        query_vector is [B, D]; ann [B, K] item rows from the index, -1 for none.
        """
        count, items = query.ts.numel(), catalog.leaf.numel()
        checkout = torch.arange(count, device=ann.device)
        history = segment_ids(query.history_offsets)  # [ΣH]
        paid = segment_ids(query.basket_offsets)  # [ΣK]

        # Buy again: own purchases by decayed count, the basket's at age zero.
        age = days((query.ts[history] - query.history_ts).clamp_min(0))
        bought = query.history_kind == 0
        event = history * items + query.history_item
        line = paid * items + query.basket_item
        weight = torch.cat([torch.exp2(-age[bought] / self.half_life), torch.ones_like(query.basket_price)])
        own, own_weight = group_sum(torch.cat([event[bought], line]), weight.unsqueeze(1))
        own = best(own, own_weight[:, 0], items, self.buy_again)

        # Recency: what the user looked at lately, beside the shop's newcomers.
        seen, seen_weight = group_sum(event[~bought], torch.exp2(-age[~bought] / 7.0).unsqueeze(1))
        seen = best(seen, seen_weight[:, 0], items, self.recency)

        # Co-purchase: neighbours of the basket's items by summed affinity.
        pair, affinity = self.affinity(query, items)
        together = best(pair, affinity[:, 0], items, self.co_purchase)

        # Category: the bestsellers of the basket's leaf categories, those high in their list first.
        position, lengths = gather_segments(self.leaf_offsets, catalog.leaf[query.basket_item])
        start = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        height = 1.0 / (1.0 + (torch.arange(position.numel(), device=ann.device) - start))
        leaf_key = torch.repeat_interleave(paid, lengths) * items + self.leaf_items[position]
        leaf, leaf_height = group_sum(leaf_key, height.unsqueeze(1))
        similar = best(leaf, leaf_height[:, 0], items, self.category)

        flat = ann.flatten()
        near = (checkout * items).repeat_interleave(ann.shape[1])[flat >= 0] + flat[flat >= 0]
        hits = (checkout * items).unsqueeze(1) + self.popular
        fresh = (checkout * items).unsqueeze(1) + self.recent
        proposed = [
            near,
            own,
            together,
            similar,
            hits.flatten(),
            torch.cat([fresh.flatten(), seen]),
        ]  # as in SOURCES
        keys: list[Tensor] = []
        bits: list[Tensor] = []
        for i, key in enumerate(proposed):
            unique = torch.unique(key)  # a source counts once, so that bits add up
            keys.append(unique)
            bits.append(torch.full_like(unique, 1 << i))
        merged, source = group_sum(torch.cat(keys), torch.cat(bits).unsqueeze(1))
        eligible = catalog.available[merged % items]
        merged, bitmask = merged[eligible], source[eligible, 0]
        segment, item = merged // items, merged % items
        vector = rows_int8(catalog.vectors, item)  # [ΣC, D]
        score = (vector * query_vector[segment]).sum(1)
        return Candidates(
            offsets_of(segment, count), item, bitmask, score, lookup(pair, affinity, merged)[:, 0]
        )

    def affinity(self, query: Query, items: int) -> tuple[Tensor, Tensor]:
        """Rising keys `checkout * items + item` [U] of what is bought with the basket; how much [U, 1]."""
        paid = segment_ids(query.basket_offsets)
        position, lengths = gather_segments(self.neighbour_offsets, query.basket_item)
        key = torch.repeat_interleave(paid, lengths) * items + self.neighbour_items[position]
        return group_sum(key, self.neighbour_scores[position].unsqueeze(1))


def best(keys: Tensor, score: Tensor, items: int, limit: int) -> Tensor:
    """Of keys `checkout * items + item` [n], the `limit` with the highest score of each checkout."""
    return keys[rank_in_segment(keys // items, score) < limit]
