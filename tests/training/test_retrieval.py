"""The items that uniform negatives of the two towers are drawn from, and what selects their weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.errors import ConfigError
from training.retrieval import negative_items, selection_cutoff


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.booleans())
def test_negatives_are_trained_items_where_facts_place_others(trained: list[bool], has_facts: bool) -> None:
    mask = torch.tensor([True, *trained])  # row 0, the unknown item, is never drawn
    all_items = list(range(1, len(mask)))
    trained_items = [row for row in all_items if mask[row]] or all_items
    assert negative_items("trained", mask, has_facts).tolist() == trained_items
    assert negative_items("all", mask, has_facts).tolist() == all_items
    expected = trained_items if has_facts else all_items
    assert negative_items("auto", mask, has_facts).tolist() == expected


def test_a_wrong_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="negative_items=sold: expected auto, trained, all"):
        negative_items("sold", torch.ones(3, dtype=torch.bool), has_facts=True)


@pytest.mark.parametrize(("n_items", "cutoff"), [(1, 6), (30, 6), (300, 30), (3000, 300), (10**6, 300)])
def test_recall_of_a_part_of_a_small_catalog_selects(n_items: int, cutoff: int) -> None:
    assert selection_cutoff(n_items) == cutoff
