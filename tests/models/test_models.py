"""Towers, ranker, calibration: shapes, invariances, gradients."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embeddings import EmbeddingTable, EmbeddingTables, Int8EmbeddingTables, quantize_tables
from models.jagged import gather_segments, lookup, rank_in_segment, segment_ids, segment_offsets, sum_by_key
from models.ranking.calibration import TaskCalibration
from models.ranking.ranker import CalibratedRanker, Ranker, RankerWidths
from models.ranking.tasks import DEFAULT_TASKS, TaskOutputs
from models.retrieval.item_tower import ItemEncoder, ItemTowerSettings
from models.retrieval.mean_encoder import MeanEncoder
from models.retrieval.query_encoder import INITIAL_LENGTH, EncoderDims
from models.retrieval.two_tower import QueryTower, TwoTower
from tests.models.shops import random_candidates, random_catalog, random_query, random_text, table_sizes
from tests.models.variants import VARIANTS


def make_two_tower(dim: int = 8) -> TwoTower:
    sizes = table_sizes()
    item = ItemEncoder(sizes, dim, ItemTowerSettings(hidden=16))
    query = MeanEncoder(EncoderDims(dim, 2 * len(sizes.attributes)), hidden=16)
    return TwoTower(item, query, sizes.attributes, attribute_dim=2)


def make_ranker() -> Ranker:
    return Ranker(table_sizes(), 8, 14.0, VARIANTS["mmoe"], RankerWidths(), DEFAULT_TASKS)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(0, 1000))
def test_jagged_operations(lengths: list[int], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), torch.tensor(lengths).cumsum(0)])
    segments = segment_ids(offsets)
    assert segments.tolist() == [i for i, n in enumerate(lengths) for _ in range(n)]
    assert segment_offsets(segments, len(lengths)).tolist() == offsets.tolist()
    chosen = torch.randint(0, len(lengths), [4], generator=g)
    position, index, chosen_lengths = gather_segments(offsets, chosen)
    assert index.tolist() == [i for i, c in enumerate(chosen.tolist()) for _ in range(lengths[c])]
    assert position.tolist() == [
        p for c in chosen.tolist() for p in range(int(offsets[c]), int(offsets[c + 1]))
    ]
    assert chosen_lengths.tolist() == [lengths[c] for c in chosen.tolist()]
    score = torch.randint(0, 4, segments.shape, generator=g).float()
    rank = rank_in_segment(segments, score)
    for i, n in enumerate(lengths):
        of_segment = [p for p in range(segments.numel()) if segments[p] == i]
        best = sorted(of_segment, key=lambda p: (-float(score[p]), p))
        assert [int(rank[p]) for p in best] == list(range(n))
    keys, sums = sum_by_key(segments * 7 % 3, score.unsqueeze(1))
    for key, total in zip(keys.tolist(), sums[:, 0].tolist(), strict=True):
        assert total == sum(float(s) for s, k in zip(score, segments * 7 % 3, strict=True) if int(k) == key)
    missing = lookup(keys, sums, torch.tensor([-5, 99]))
    assert missing.tolist() == [[0.0], [0.0]]


def test_every_parameter_of_the_towers_gets_a_gradient() -> None:
    towers, query = make_two_tower(), random_query(1, count=8)
    rows = torch.arange(1, 20)
    q, v = towers(query, rows, random_catalog(1), random_text(1), random_catalog(1).price[0])
    assert q.shape == (8, 8)
    assert v.shape == (19, 8)
    torch.testing.assert_close(q.norm(dim=1), torch.full([8], INITIAL_LENGTH))
    (q @ v.T)[torch.arange(8), torch.arange(8)].sum().backward()
    for name, parameter in towers.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_int8_tables_match_the_trained_ones() -> None:
    tables = EmbeddingTables([EmbeddingTable("a", 50, 16, ["x", "y"]), EmbeddingTable("b", 9, 8, ["z"])])
    quantized: Int8EmbeddingTables = quantize_tables(tables)
    lengths = [torch.randint(0, 4, [6]) for _ in range(3)]
    ids = [torch.randint(0, 9, [int(n.sum())]) for n in lengths]
    weights = [torch.rand(int(n.sum())) for n in lengths]
    torch.testing.assert_close(
        quantized(ids, lengths, weights), tables(ids, lengths, weights), rtol=0, atol=0.02
    )


def test_query_tower_from_frozen_vectors_matches_the_training_model() -> None:
    """int8 item vectors and attribute tables give the vectors of the training model, up to quantization."""
    towers, query, catalog, text = make_two_tower().eval(), random_query(5), random_catalog(5), random_text(5)
    rows = torch.arange(31)
    with torch.no_grad():
        q, vectors = towers(query, rows, catalog, text, catalog.price[0])
        packed = torch.ops.quantized.embedding_bag_byte_prepack(vectors)
        frozen = QueryTower(towers.query_encoder, quantize_tables(towers.attribute_embeddings))(query, packed)
    torch.testing.assert_close(frozen / INITIAL_LENGTH, q / INITIAL_LENGTH, rtol=0, atol=0.02)


def test_ranker_gives_ordered_probabilities_and_positive_spend() -> None:
    ranker = CalibratedRanker(make_ranker().eval())
    click, purchase, value = ranker(
        random_query(7), torch.randn(4, 8), random_candidates(7), random_catalog(7)
    )
    assert (purchase <= click).all()
    assert (value > 0).all()


def test_calibration_recovers_a_known_distortion() -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(20_000, 3, generator=g)
    clicked = torch.bernoulli(truth[:, 0].sigmoid(), generator=g)
    purchased = clicked * torch.bernoulli(truth[:, 1].sigmoid(), generator=g)
    value = truth[:, 2].exp() * torch.empty(20_000).exponential_(generator=g)
    distorted = truth * torch.tensor([2.0, 0.5, 1.0]) + torch.tensor([1.0, -1.0, 0.7])
    calibration = TaskCalibration(3)
    calibration.fit(DEFAULT_TASKS, distorted, torch.stack([clicked, purchased, value], dim=1))
    click, _, log_value = calibration(distorted).unbind(1)
    torch.testing.assert_close(click, truth[:, 0], rtol=0, atol=0.3)
    outputs = TaskOutputs(DEFAULT_TASKS)(calibration(distorted))
    assert abs(float(outputs[1].mean() - purchased.mean())) < 0.005
    assert abs(float((log_value - truth[:, 2]).mean())) < 0.05


def test_calibration_keeps_a_task_without_both_outcomes() -> None:
    calibration = TaskCalibration(3)
    calibration.fit(DEFAULT_TASKS, torch.randn(50, 3), torch.zeros(50, 3))
    assert calibration.scale.tolist() == [1, 1, 1]
    assert calibration.shift.tolist() == [0, 0, 0]
