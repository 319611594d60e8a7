"""Similarity of the candidate to the user's items, by the items' own vectors (text or image embeddings)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.embeddings import gather_rows_int8
from models.jagged import padded_positions, segment_offsets
from models.ranking.features.blocks import PairInputs
from models.retrieval.recent_events import known_basket_lines, latest_events


class ContentFeatures(NamedTuple):
    """Block: cosines of the candidate's vector, 0 where a vector is missing."""

    content_history: Tensor  # to the mean of the history, in which an event loses half its weight in 30 days
    content_history_max: Tensor  # the largest to one event, 0 at least
    content_basket: Tensor  # to the mean of the basket
    content_basket_max: Tensor  # the largest to one line, 0 at least
    content_known: Tensor  # 1 or 0: the candidate has a vector


def content_features(pairs: PairInputs, max_events: int) -> ContentFeatures:
    """Similarity to the latest `max_events` events and basket lines of known items.

    Only the vectors of these items and of the candidates are unpacked. Candidates are padded with the unknown
    item, whose vector is zero, to [B, C, E] floats, where C is the largest number of candidates.
    """
    query, content = pairs.query, pairs.catalog.content
    event, event_checkout = latest_events(query, max_events)
    decay = torch.exp2(-pairs.event_age.index_select(0, event) / 30.0).clamp_min(1e-6)  # fades if all are old
    history = member_vectors(pairs, query.history_item.index_select(0, event), event_checkout, decay)
    line, line_checkout = latest_basket_lines(pairs, max_events)
    basket = member_vectors(
        pairs, query.basket_item.index_select(0, line), line_checkout, torch.ones_like(line).to(decay.dtype)
    )
    first_line = history.shape[1]  # position among the members at which those of the history end
    members = torch.cat([history, basket], dim=1)  # [B, M, E]: mean and vectors, twice

    position, width = padded_positions(pairs.candidates.offsets, pairs.checkout)
    item = torch.zeros([members.shape[0] * width], dtype=torch.int64, device=position.device)
    item = item.index_copy(0, position, pairs.candidates.item)
    candidate = gather_rows_int8(content, item).reshape(members.shape[0], width, -1)  # [B, C, E]
    norm = torch.linalg.vector_norm(candidate, dim=2)  # [B, C]
    cosine = torch.bmm(members, candidate.transpose(1, 2)).float() / norm.clamp_min(1e-6).unsqueeze(1)
    padded = [
        cosine[:, 0],
        cosine[:, 1:first_line].amax(1).clamp_min(0.0),
        cosine[:, first_line],
        cosine[:, first_line + 1 :].amax(1).clamp_min(0.0),
        (norm > 0).to(torch.float32),
    ]
    rows = torch.stack(padded).flatten(1).index_select(1, position)  # [5, ΣC]
    to_history, to_event, to_basket, to_line, known = rows.unbind(0)
    return ContentFeatures(to_history, to_event, to_basket, to_line, known)


def member_vectors(pairs: PairInputs, item: Tensor, checkout: Tensor, weight: Tensor) -> Tensor:
    """Returns unit vectors [B, 1 + M, E]: the weighted mean of each checkout's items, then the items.

    Zeros follow the last item. `item`, `checkout` (rising) and `weight` are [n]. Unknown vectors are zeros.
    """
    n_checkouts = pairs.query.ts.numel()
    position, width = padded_positions(segment_offsets(checkout, n_checkouts), checkout)
    items = torch.zeros([n_checkouts * width], dtype=torch.int64, device=item.device)
    weights = torch.zeros([n_checkouts * width], dtype=weight.dtype, device=weight.device)
    items, weights = items.index_copy(0, position, item), weights.index_copy(0, position, weight)
    vectors = F.normalize(gather_rows_int8(pairs.catalog.content, items), dim=1)
    vectors = vectors.reshape(n_checkouts, width, -1)
    mean = (vectors * weights.reshape(n_checkouts, width, 1)).sum(1, keepdim=True)
    return torch.cat([F.normalize(mean, dim=2), vectors], dim=1)


def latest_basket_lines(pairs: PairInputs, limit: int) -> tuple[Tensor, Tensor]:
    """Finds each checkout's last `limit` lines of known items: positions in the basket [n], checkouts [n]."""
    line, checkout = known_basket_lines(pairs.query)
    ends = segment_offsets(checkout, pairs.query.ts.numel())[1:]
    index = torch.arange(line.numel(), device=line.device)
    kept = (ends.index_select(0, checkout) - index <= limit).nonzero()[:, 0]
    return line.index_select(0, kept), checkout.index_select(0, kept)
