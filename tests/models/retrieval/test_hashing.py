"""Hashed id tables: row 0 is reserved for the unknown id, hashes spread, training and export agree."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embeddings import quantize_tables
from models.retrieval.item_tower import ItemEncoder, ItemTowerSettings, hash_bags, item_encoder_inputs
from tests.models.shops import random_catalog, random_text, table_sizes


def bag(ids: torch.Tensor, rows: int, hashes: int) -> torch.Tensor:
    one = torch.ones_like(ids)
    return hash_bags(ids, one, one.float(), rows, hashes)[0].view(-1, hashes)


@settings(deadline=None)
@given(first=st.integers(1, 2**31 - 3000), rows=st.integers(2, 10**9), hashes=st.integers(1, 6))
def test_only_the_unknown_id_takes_row_0(first: int, rows: int, hashes: int) -> None:
    ids = torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(first, first + 100)])
    hashed = bag(ids, rows, hashes)
    assert (hashed[0] == 0).all()
    assert (hashed[1:] >= 1).all()
    assert (hashed[1:] < rows).all()


def test_two_hashes_distinguish_ids_that_collide_in_one() -> None:
    ids, rows = torch.arange(1, 20_001), 1001
    hashed = bag(ids, rows, 2)
    assert len(hashed[:, 0].unique()) <= rows - 1
    pairs = hashed.sort(dim=1).values
    n_distinct = len((pairs[:, 0] * rows + pairs[:, 1]).unique())
    expected = 500_500 * (1 - (1 - 1 / 500_500) ** 20_000)  # distinct unordered pairs of independent draws
    assert abs(n_distinct - expected) < 0.02 * expected
    load = torch.bincount(hashed.flatten(), minlength=rows)[1:].float()
    assert load.max() < 3 * load.mean()


def test_a_bag_keeps_its_weights() -> None:
    ids, lengths, weights = torch.tensor([4, 0, 7]), torch.tensor([2, 0, 1]), torch.tensor([0.5, 1.0, 2.0])
    rows, counts, row_weights = hash_bags(ids, lengths, weights, 50, 3)
    assert counts.tolist() == [6, 0, 3]
    assert row_weights.tolist() == [0.5] * 3 + [1.0] * 3 + [2.0] * 3
    assert rows[:3].tolist() == bag(ids, 50, 3)[0].tolist()


@torch.no_grad()
def test_a_hashed_item_tower_and_its_int8_form_agree() -> None:
    settings = ItemTowerSettings(hidden=16, id_rows=9, token_rows=6, hashes=2)
    encoder = ItemEncoder(table_sizes(), 8, settings).eval()
    assert [(t.name, t.num_embeddings) for t in encoder.embeddings.tables][::3] == [("item", 9), ("token", 6)]
    catalog, text = random_catalog(1), random_text(1)
    inputs = item_encoder_inputs(torch.arange(31), catalog, text, catalog.price[0])
    exact = encoder(*inputs)
    encoder.embeddings = quantize_tables(encoder.embeddings)
    torch.testing.assert_close(encoder(*inputs), exact, rtol=0, atol=0.02)


@torch.no_grad()
def test_an_item_that_was_never_a_positive_has_no_id() -> None:
    encoder = ItemEncoder(table_sizes(), 8, ItemTowerSettings(hidden=16, id_rows=9)).eval()
    encoder.trained_mask[5:] = False
    catalog, text = random_catalog(1), random_text(1)
    inputs = item_encoder_inputs(torch.arange(31), catalog, text, catalog.price[0])
    before = encoder(*inputs)
    table = encoder.embeddings.collection.embedding_bags["item"].weight
    table[1:] += 5.0
    changed = (encoder(*inputs) - before).abs().sum(1) > 1e-6
    assert changed[1:5].all()
    assert not changed[5:].any()
