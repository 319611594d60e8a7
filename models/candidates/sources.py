"""Seven retrieval sources merged into one candidate list per checkout.

The same module gathers candidates for training in batches and, scripted, for one request in serving.
Its tables (what is popular, new, bought together) belong to one snapshot date.

    ann, popularity, recency ───────────────────────────────╮
    history, basket ─ counts ─▶ buy_again, recency ─────────┤
                        │ own items                         ├─▶ merged, the best kept
                        ▼                                   │
    basket ────────── lists ─▶ co_purchase, category, collaborative
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.embeddings import rows_int8
from models.jagged import (
    best_in_segment,
    by_score,
    contains,
    gather_segments,
    group_sum,
    lookup,
    offsets_of,
    segment_ids,
)
from models.schema import KINDS, Candidates, Catalog, Query, days

# Bit i of Candidates.source stands for SOURCES[i].
SOURCES = ("ann", "buy_again", "co_purchase", "category", "popularity", "recency", "collaborative")
SHARED = ("popularity", "recency")  # propose the same to everyone
# These propose by what a checkout says. All are counted at once, each as a group of its own: the key of an
# item is (group * checkouts + checkout) * items + item. The first two count events, the others add up lists.
GROUPS = ("buy_again", "recency", "co_purchase", "category", "collaborative")
BOUGHT, LOOKED, TOGETHER, SIMILAR, TASTE = range(len(GROUPS))
PAST = 100  # own items, the most frequent and recent, that speak for others
LOOK = 7.0  # days in which a click or cart event loses half its weight


class Lists(NamedTuple):
    """For each of R rows (items, or leaf categories) the items that go with it."""

    offsets: Tensor  # [R+1] int64
    item: Tensor  # [ΣM] int64
    score: Tensor  # [ΣM] float32


class Ranked(NamedTuple):
    """n items of checkouts, group by group and checkout by checkout, the highest score first."""

    key: Tensor  # [n] int64
    rank: Tensor  # [n] int64, 0 for the highest of its group and checkout
    group: Tensor  # [n] int64, position in GROUPS


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
        buy_again, co_purchase, category, collaborative: how many each of these sources may propose per
            checkout. The length of `popular` and the columns of `ann` limit those two.
        recency: how many items that the user lately looked at are proposed, beside all of `recent`.
        half_life: days in which a past purchase loses half its weight in buy-again.
        limit: candidates per checkout; None for all.
    """

    newcomer: Tensor
    shared: Tensor
    shared_bits: Tensor
    shared_places: Tensor
    list_offsets: Tensor
    list_items: Tensor
    list_scores: Tensor
    decay: Tensor
    heard: Tensor
    voice: Tensor
    limits: Tensor
    behind: Tensor
    bits: Tensor

    def __init__(
        self,
        popular: Tensor,
        recent: Tensor,
        neighbours: Lists,
        leaves: Lists,
        peers: Lists,
        buy_again: int = 150,
        co_purchase: int = 50,
        category: int = 30,
        recency: int = 20,
        collaborative: int = 50,
        half_life: float = 60.0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.limit = limit
        self.ann_bit = bit("ann")
        # What everyone gets, from which source, and its place there.
        shared = [popular, recent]
        bits = [torch.full_like(items, bit(name)) for items, name in zip(shared, SHARED, strict=True)]
        self.register_buffer("shared", torch.cat(shared))
        self.register_buffer("shared_bits", torch.cat(bits))
        self.register_buffer("shared_places", torch.cat([torch.arange(items.numel()) for items in shared]))
        newcomer = torch.zeros(neighbours.offsets.numel() - 1, dtype=torch.bool)
        self.register_buffer("newcomer", newcomer.index_fill(0, recent, True))
        self.list_rows, lists = stacked([neighbours, leaves, peers])
        self.register_buffer("list_offsets", lists.offsets)
        self.register_buffer("list_items", lists.item)
        self.register_buffer("list_scores", lists.score)
        half_lives = [half_life if kind == "purchase" else LOOK for kind in KINDS]
        self.register_buffer("decay", -1.0 / torch.tensor(half_lives))
        self.register_buffer("heard", torch.tensor([PAST, 0]))  # of what was bought and looked at
        # By rank and not by age, so that it means the same to a user of many orders a week and of few a year.
        self.register_buffer("voice", (1.0 + torch.arange(PAST)).rsqrt())
        self.register_buffer(
            "limits", torch.tensor([buy_again, recency, co_purchase, category, collaborative])
        )
        self.register_buffer("behind", torch.tensor([0, recent.numel(), 0, 0, 0]))  # the shop's newcomers
        self.register_buffer("bits", torch.tensor([bit(name) for name in GROUPS]))
        self.together, self.similar, self.taste = TOGETHER, SIMILAR, TASTE

    def forward(self, query: Query, query_vector: Tensor, ann: Tensor, catalog: Catalog) -> Candidates:
        """Candidates of B checkouts.

        query_vector is [B, D]; ann [B, K] item rows from the index, -1 for none.
        """
        count, items = query.ts.numel(), catalog.leaf.numel()
        span = count * items  # keys of a group
        paid = segment_ids(query.basket_offsets) * items  # [ΣK], of the lines just paid
        past, weight = self.past(query, paid, items)
        mine = ranked(past, weight, items, count)
        listed, strength = self.listed(query, paid, mine, catalog.leaf)

        # Taste proposes what the user has not bought yet.
        new = (~contains(past + self.taste * span, listed)).nonzero().squeeze(1)
        near = ranked(listed.index_select(0, new), strength.index_select(0, new), items, count)
        group = torch.cat([mine.group, near.group])
        rank = torch.cat([mine.rank, near.rank])
        best = (rank < self.limits.index_select(0, group)).nonzero().squeeze(1)
        group, rank = group.index_select(0, best), rank.index_select(0, best)
        key = torch.cat([mine.key, near.key]).index_select(0, best) - group * span

        # Each source proposes an item once. Row 0, which stands for none, is not available.
        found = torch.cat([ann.clamp_min(0), self.shared.expand(count, -1)], dim=1)  # [B, K + shared]
        if count > 1:
            found = found + torch.arange(count, device=ann.device).unsqueeze(1) * items
        places = torch.arange(ann.shape[1], device=ann.device)
        found_bits = torch.cat([torch.full_like(places, self.ann_bit), self.shared_bits])
        found_places = torch.cat([places, self.shared_places])
        proposed = torch.cat([found.flatten(), key])
        bits = torch.cat([found_bits.expand(count, -1).flatten(), self.bits.index_select(0, group)])
        shown = catalog.available.index_select(0, apart(proposed, items, count)[1]).nonzero().squeeze(1)
        merged, inverse = torch.unique(proposed.index_select(0, shown), return_inverse=True)
        bitmask = torch.zeros_like(merged).index_add_(0, inverse, bits.index_select(0, shown))
        if self.limit is not None:
            behind = rank + self.behind.index_select(0, group)
            places = torch.cat([found_places.expand(count, -1).flatten(), behind]).index_select(0, shown)
            share = (60.0 + places).reciprocal()
            fused = torch.zeros_like(merged, dtype=torch.float32).index_add_(0, inverse, share)
            segment, _ = apart(merged, items, count)
            kept = best_in_segment(segment, fused, self.limit, count)
            merged, bitmask = merged.index_select(0, kept), bitmask.index_select(0, kept)
        segment, item = apart(merged, items, count)
        vector = rows_int8(catalog.vectors, item)  # [ΣC, D]
        asking = query_vector if count == 1 else query_vector.index_select(0, segment)
        score = (vector * asking).sum(1)
        affinity, taste = self.links(listed, strength, merged, span)
        return Candidates(offsets_of(segment, count), item, bitmask, score, affinity, taste)

    def past(self, query: Query, paid: Tensor, items: int) -> tuple[Tensor, Tensor]:
        """Rising keys [U] of what each user bought, the basket at age zero included, and looked at; the
        decayed count of each [U]. `paid` [ΣK] is the key of item 0 of each paid line's checkout.

        What the shop newly sells is proposed to everyone and left out of what was looked at.
        """
        history = segment_ids(query.history_offsets)  # [ΣH]
        age = days((query.ts.index_select(0, history) - query.history_ts).clamp_min(0))
        looked = query.history_kind != 0
        kept = (~(looked & self.newcomer.index_select(0, query.history_item))).nonzero().squeeze(1)
        key = (looked * query.ts.numel() + history) * items + query.history_item
        weight = torch.exp2(age * self.decay.index_select(0, query.history_kind))
        return group_sum(
            torch.cat([key.index_select(0, kept), paid + query.basket_item]),
            torch.cat([weight.index_select(0, kept), torch.ones_like(query.basket_price)]),
        )

    def listed(self, query: Query, paid: Tensor, mine: Ranked, leaf: Tensor) -> tuple[Tensor, Tensor]:
        """Rising keys [U] of what is bought with the basket, is liked in its leaf categories, and is bought
        by those who bought what the user did; how much of each [U]. `paid` as above, `leaf` the catalog's.

        Of the user's own items the best PAST are heard.
        """
        items, line, one = leaf.numel(), query.basket_item, torch.ones_like(query.basket_price)
        span = query.ts.numel() * items
        heard = (mine.rank < self.heard.index_select(0, mine.group)).nonzero().squeeze(1)
        own = mine.key.index_select(0, heard)
        item = own % items
        row = torch.cat([line, self.list_rows[1] + leaf.index_select(0, line), self.list_rows[2] + item])
        first = torch.cat(  # the key of item 0 of its checkout
            [paid + self.together * span, paid + self.similar * span, own - item + self.taste * span]
        )
        weight = torch.cat([one, one, self.voice.index_select(0, mine.rank.index_select(0, heard))])
        position, owner, _ = gather_segments(self.list_offsets, row)
        return group_sum(
            first.index_select(0, owner) + self.list_items.index_select(0, position),
            self.list_scores.index_select(0, position) * weight.index_select(0, owner),
        )

    def links(self, listed: Tensor, strength: Tensor, asked: Tensor, span: int) -> tuple[Tensor, Tensor]:
        """Affinity with the basket and taste [n] of `asked` keys [n] `checkout * items + item`, of what
        `listed` gave; `span` is the keys of a group."""
        keys = torch.cat([asked + self.together * span, asked + self.taste * span])
        found = lookup(listed, strength, keys)
        return found[: asked.numel()], found[asked.numel() :]


def bit(source: str) -> int:
    """What stands for one of SOURCES in Candidates.source."""
    return 1 << SOURCES.index(source)


def bestsellers(offsets: Tensor, item: Tensor) -> Lists:
    """Lists of items, best first, that count 1 / (1 + place)."""
    place = torch.arange(item.numel()) - offsets[segment_ids(offsets)]
    return Lists(offsets, item, 1.0 / (1.0 + place))


def stacked(tables: Sequence[Lists]) -> tuple[list[int], Lists]:
    """Lists one below the other, and the first row of each; a row without items separates them."""
    rows, offsets, items = [0], [tables[0].offsets], tables[0].item.numel()
    for table in tables[1:]:
        rows.append(rows[-1] + offsets[-1].numel())
        offsets.append(table.offsets + items)
        items += table.item.numel()
    joined = Lists(
        torch.cat(offsets), torch.cat([t.item for t in tables]), torch.cat([t.score for t in tables])
    )
    return rows, joined


def apart(keys: Tensor, items: int, count: int) -> tuple[Tensor, Tensor]:
    """Checkouts [n] and items [n] of keys `checkout * items + item` [n] of `count` checkouts."""
    if count == 1:  # one request: four operations less
        return torch.zeros_like(keys), keys
    segment = keys // items
    return segment, keys - segment * items


def ranked(keys: Tensor, score: Tensor, items: int, count: int) -> Ranked:
    """Rising keys [n] of `count` checkouts by falling score [n]; between equals the first item."""
    order, segment, rank = by_score(keys // items, score)
    return Ranked(keys.index_select(0, order), rank, segment if count == 1 else segment // count)
