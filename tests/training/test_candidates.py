"""Candidate tables know only their snapshot; gathered candidates go back to Parquet unchanged."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from data.catalog import ItemNeighbours
from data.io.batches import CANDIDATE_DTYPES, LIST_SCORE_PREFIX, list_score_columns
from models.candidates.category import bestsellers_by_leaf
from models.candidates.ease import SCALE
from models.candidates.item_lists import ItemLists
from models.candidates.sources import CandidateSources
from models.embeddings import unpack_int8
from models.schema import Catalog
from tests.models.shops import DAY, NOW, random_candidates, random_catalog, random_query
from tests.training.test_labels import random_outcomes
from training.candidate_sources import SourceTables
from training.candidates import add_impressions, append_candidate_columns, candidate_recall
from training.item_scores import top_available
from training.source_settings import parse_sources

LIMITS = {
    "ann": 4,
    "buy_again": 3,
    "co_purchase": 3,
    "category": 2,
    "popularity": 5,
    "recency": 3,
    "ease": 3,
    "transitions": 3,
    "buy_again_half_life": 60.0,
}


def source_tables(
    catalog: Catalog,
    score: float,
    snapshot: int = 0,
    neighbours: dict[str, dict[int, ItemNeighbours]] | None = None,
) -> SourceTables:
    """At one snapshot item 1 goes with item 5: in one order by `score`, by users by twice that."""
    return SourceTables(
        sources=parse_sources(LIMITS),
        catalog=catalog,
        neighbours=neighbours
        or {
            "copurchase_neighbours": {snapshot: one_pair(score)},
            "ease_neighbours": {snapshot: one_pair(2 * score)},
            "transition_neighbours": {snapshot: one_pair(score)},
        },
        snapshot_dates=[NOW, NOW + 7 * DAY],
        folder=Path(),
    )


def one_pair(score: float) -> ItemNeighbours:
    return ItemNeighbours(
        torch.cat([torch.zeros(2), torch.ones(30)]).long(), torch.tensor([5]), torch.tensor([score])
    )


def global_items(sources: CandidateSources, name: str) -> list[int]:
    """What one source proposes to everyone."""
    bit = 1 << [*parse_sources(LIMITS)].index(name)
    return sources.global_items[sources.global_source_bits == bit].tolist()


def lists(sources: CandidateSources, table: int) -> ItemLists:
    """The lists of co_purchase (0), category (1), ease (2) or transitions (3)."""
    rows = [*sources.list_first_rows, sources.list_offsets.numel()]
    offsets = sources.list_offsets[rows[table] : rows[table + 1]]
    part = slice(int(offsets[0]), int(offsets[-1]))
    return ItemLists(offsets, sources.list_items[part], sources.list_scores[part])


def test_tables_hold_only_what_the_snapshot_knew() -> None:
    catalog = random_catalog(2)
    orders = torch.zeros(2, 31)
    orders[0, 1:9] = torch.arange(8, 0, -1).float()
    orders[1, 20:30] = 9.0  # known only later
    first_sold = torch.full([31], NOW - 100 * DAY)
    first_sold[2], first_sold[3], first_sold[4] = NOW - 2 * DAY, NOW + DAY, NOW - 20 * DAY
    catalog = catalog._replace(
        orders_28d=orders, first_sold=first_sold, available=torch.tensor([False] + [True] * 30)
    )
    both_weeks = {
        "copurchase_neighbours": {0: one_pair(0.25), 1: one_pair(0.75)},
        "ease_neighbours": {0: one_pair(0.5), 1: one_pair(1.5)},
        "transition_neighbours": {0: one_pair(0.5), 1: one_pair(1.5)},
    }
    tables = source_tables(catalog, 0.0, neighbours=both_weeks)
    first_week = tables.candidate_sources(0)
    assert global_items(first_week, "popularity") == [1, 2, 3, 4, 5]
    assert global_items(first_week, "recency") == [2, 4]  # item 3 is first sold tomorrow
    assert set(lists(first_week, 1).item.tolist()) <= set(range(1, 9))
    for expected, sources in (
        ([0.25], first_week),
        ([0.75], tables.candidate_sources(1)),
        ([0.25], source_tables(catalog, 0.25).candidate_sources(1)),
        ([], source_tables(catalog, 0.25, snapshot=1).candidate_sources(0)),
    ):
        assert lists(sources, 0).score.tolist() == expected
        assert lists(sources, 2).score.tolist() == [2 * SCALE * score for score in expected]
        assert lists(sources, 3).score.tolist() == [1.0 for _ in expected], "means of the table"


def test_unavailable_items_are_in_no_table() -> None:
    catalog = random_catalog(4)
    sources = source_tables(catalog, 0.5).candidate_sources(0)
    assert catalog.available[torch.cat([sources.global_items, lists(sources, 1).item])].all()


def test_a_shop_without_recent_sales_still_has_popular_items() -> None:
    catalog = random_catalog(4)._replace(orders_28d=torch.zeros(2, 31))
    sources = source_tables(catalog, 0.5).candidate_sources(0)
    assert len(global_items(sources, "popularity")) == LIMITS["popularity"]


def test_by_leaf_keeps_the_best_of_each() -> None:
    leaf = torch.tensor([0, 1, 1, 2, 1, 0])
    offsets, items = bestsellers_by_leaf(leaf, torch.tensor([4, 3, 5, 2, 1]), 2)
    assert [items[a:b].tolist() for a, b in pairwise(offsets)] == [[], [4, 2], [3]]


def test_candidates_survive_the_way_through_parquet() -> None:
    candidates = random_candidates(3, scored=2)
    table = append_candidate_columns(pa.table({"order_id": list("abcd")}), candidates, ["ease", "mine"])
    assert list_score_columns(table.column_names) == [
        f"{LIST_SCORE_PREFIX}{name}" for name in ("ease", "mine")
    ]
    expected = {f"candidate_{name}": getattr(candidates, name) for name in CANDIDATE_DTYPES}
    expected |= {
        name: candidates.list_scores[:, k] for k, name in enumerate(list_score_columns(table.column_names))
    }
    for name, values in expected.items():
        flat = np.concatenate([np.asarray(row) for row in table[name].to_pylist()])
        np.testing.assert_allclose(flat, values.numpy(), rtol=1e-6)
    lengths = [len(row) for row in table["candidate_item"].to_pylist()]
    assert lengths == candidates.offsets.diff().tolist()


def test_exact_search_leaves_out_the_unavailable_and_pads() -> None:
    available = torch.tensor([False, True, False, True])
    top_items = top_available(torch.tensor([[9.0, 0.1, 5.0, 0.2]]), available, 3)
    assert top_items.tolist() == [[3, 1, -1]]


def test_recall_is_the_share_of_purchases_found() -> None:
    candidates = random_candidates(3)
    lists = [candidates.item[a:b].tolist() for a, b in pairwise(candidates.offsets)]
    outcomes = random_outcomes(3)
    expected = []
    for row, (a, b) in enumerate(pairwise(outcomes.offsets)):
        bought = {int(outcomes.item[o]) for o in range(a, b) if outcomes.purchase[o]}
        expected.append(len(bought & set(lists[row])) / len(bought) if bought else float("nan"))
    np.testing.assert_allclose(
        candidate_recall(candidates, outcomes, random_catalog(3)).numpy(), expected, rtol=1e-6
    )


def test_impressions_join_the_candidates() -> None:
    """Impressions join with source mask 0 and their own scores; the candidates of sources stay."""
    catalog, query, outcomes = random_catalog(5), random_query(5), random_outcomes(5)
    sources = source_tables(catalog, 0.25).candidate_sources(0)
    vector = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    candidates = sources(query, vector, torch.full([4, 1], -1), catalog)
    joined = add_impressions(candidates, outcomes, query, vector, sources, catalog)
    table = unpack_int8(catalog.vectors)
    ends = query.history_offsets.tolist()
    bought = [
        [int(query.history_item[i]) for i in range(a, b) if query.history_kind[i] == 0]
        for a, b in pairwise(ends)
    ]
    n_added = 0
    for row in range(4):
        old, new = (
            {
                int(c.item[k]): (
                    int(c.source_mask[k]),
                    float(c.score[k]),
                    *c.list_scores[k].tolist(),
                )
                for k in range(c.offsets[row], c.offsets[row + 1])
            }
            for c in (candidates, joined)
        )
        o = slice(outcomes.offsets[row], outcomes.offsets[row + 1])
        impressions = set(outcomes.item[o][outcomes.impression[o]].tolist())
        assert list(new) == sorted(set(old) | impressions)
        assert {item: new[item] for item in old} == old
        basket = query.basket_item[query.basket_offsets[row] : query.basket_offsets[row + 1]].tolist()
        for item in impressions - set(old):
            source, score, copurchase_score, category_score, ease_score, transition_score = new[item]
            assert source == 0
            assert abs(score - float(table[item] @ vector[row])) < 1e-5
            assert copurchase_score == (
                0.25 * basket.count(1) if item == 5 else 0
            )  # item 1 is bought with item 5
            assert (ease_score > 0) == (transition_score > 0) == (item == 5 and 1 in basket + bought[row])
            assert category_score == 0
            n_added += 1
    assert n_added > 5
