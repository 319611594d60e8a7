"""The index finds what exact search finds, at the recall that was asked for."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from exporting.index import build, exact, inverted_lists, measure, settings, tune
from training.config import CONFIGS


def clustered(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(50, 16))
    vectors = centres[rng.integers(0, 50, count)] + rng.normal(size=(count, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def config(**changes: object):
    return OmegaConf.merge(OmegaConf.load(CONFIGS / "index" / "ivf_sq8.yaml"), changes)


def test_small_catalogs_get_a_flat_index_with_item_rows() -> None:
    vectors, ids = clustered(400), np.arange(400) * 3 + 1
    cfg = config()
    index = build(vectors, ids, cfg)
    assert inverted_lists(index) is None
    queries = clustered(20, seed=1)
    truth = exact(vectors, ids, queries)
    assert truth.shape == (20, 300)
    measured = tune(index, queries, truth, cfg.recall_target)
    assert measured.recall > 0.98
    assert set(index.search(queries[:1], 10)[1][0].tolist()) <= set(ids.tolist())


@pytest.mark.parametrize("target", [0.7, 0.97])
def test_nprobe_is_the_smallest_that_reaches_the_target(target: float) -> None:
    vectors, ids = clustered(6000), np.arange(1, 6001)
    cfg = config()
    index, queries = build(vectors, ids, cfg), clustered(60, seed=2)
    truth = exact(vectors, ids, queries)
    measured = tune(index, queries, truth, target)
    lists = inverted_lists(index)
    assert lists.nlist == 6000 // 39
    assert measured.recall >= target
    assert settings(index, cfg)["nprobe"] == lists.nprobe < lists.nlist
    chosen = lists.nprobe
    lists.nprobe = chosen - max(1, chosen // 8)
    assert measure(index, queries, truth).recall < target
    assert 0 < measured.p50_ms <= measured.p99_ms


def test_a_target_out_of_reach_searches_every_list() -> None:
    vectors, ids = clustered(6000), np.arange(1, 6001)
    index, queries = build(vectors, ids, config()), clustered(10, seed=3)
    measured = tune(index, queries, exact(vectors, ids, queries), 1.1)
    assert inverted_lists(index).nprobe == inverted_lists(index).nlist
    assert measured.recall < 1.1
