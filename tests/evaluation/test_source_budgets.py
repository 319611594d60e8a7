"""Budgets of the sources: what limits reach, and the greedy way to them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.source_budgets import Budget, RankedProposals, allocate, budget_rows, reach

CHECKOUTS, SOURCES, PAIRS = 3, 3, 30


def random_proposals(seed: int) -> RankedProposals:
    """Lists of distinct pairs by source; ten pairs belong to each checkout."""
    rng = np.random.default_rng(seed)
    columns: list[tuple[int, int, int]] = []
    for source in range(SOURCES):
        for checkout in range(CHECKOUTS):
            items = rng.permutation(10)[: rng.integers(0, 9)]
            columns += [(source, rank, checkout * 10 + int(item)) for rank, item in enumerate(items)]
    source, rank, pair = (np.array(column, np.int64) for column in zip(*columns, strict=True))
    value = rng.random(PAIRS) * (rng.random(PAIRS) < 0.4)
    return RankedProposals(source, rank, pair, value)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_budgets_are_what_their_limits_reach(seed: int, step: int) -> None:
    proposals = random_proposals(seed)
    budgets = allocate(proposals, SOURCES, CHECKOUTS, step, 1e9)
    previous = Budget((0,) * SOURCES, 0.0, 0.0)
    for budget in budgets:
        reached = reach(proposals, budget.limits, CHECKOUTS)
        assert budget.candidates == reached.candidates
        assert abs(budget.recall - reached.recall) < 1e-9
        grown = np.subtract(budget.limits, previous.limits)
        assert sorted(grown) == [0] * (SOURCES - 1) + [step]
        # No other source's next block has more recall per new candidate.
        gains = []
        for source in range(SOURCES):
            limits = list(previous.limits)
            limits[source] += step
            larger = reach(proposals, limits, CHECKOUTS)
            n_new = larger.candidates - previous.candidates
            if n_new > 0:
                gains.append((larger.recall - previous.recall) / n_new)
        n_new = budget.candidates - previous.candidates
        assert n_new == 0 or (budget.recall - previous.recall) / n_new >= max(gains) - 1e-9
        previous = budget
    assert budgets[-1].candidates == len(np.unique(proposals.pair)) / CHECKOUTS


def test_no_more_candidates_than_wanted_but_for_the_last_block() -> None:
    proposals = random_proposals(1)
    budgets = allocate(proposals, SOURCES, CHECKOUTS, 1, 4.0)
    assert budgets[-1].candidates >= 4.0
    assert all(budget.candidates < 4.0 for budget in budgets[:-1])


def test_rows_tell_what_a_source_adds() -> None:
    """Source 0 finds all of the first checkout's purchases, source 1 half of them and all of the second's."""
    proposals = RankedProposals(
        source=np.array([0, 0, 1, 1]),
        rank=np.array([0, 1, 0, 0]),
        pair=np.array([0, 1, 1, 2]),
        value=np.array([0.25, 0.25, 0.5]),
    )
    chosen = Budget((2, 1), 1.5, 1.0)
    first, second, today, union = budget_rows(proposals, ["a", "b"], {"a": 1, "b": 0}, chosen, 2)
    assert (first["recall_alone"], first["adds"]) == (0.5, 0.25)
    assert (second["recall_alone"], second["adds"]) == (0.75, 0.5)
    assert (today["candidates"], today["recall_alone"]) == (0.5, 0.25)
    assert (union["candidates"], union["recall_alone"]) == (1.5, 1.0)
