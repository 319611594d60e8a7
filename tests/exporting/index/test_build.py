"""The index finds what exact search finds at the recall that was asked for, under any filter."""

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from exporting.index.build import (
    RECALL_AT,
    add_vectors,
    exact_search,
    imbalance_factor,
    int8_vector_reader,
    measure_search,
    override_quantizer,
    read_shards,
    train_index,
    tune_search_params,
    write_shards,
)
from exporting.index.tuning import FACTORIES, trial_rows, tune_index
from models.embeddings import pack_int8
from reporting.index_page import index_page, pareto_front
from serving.storage.vector_index import ItemIndex, SearchParams, read_index
from training.config import CONFIG_DIR

ITEMS = 6000


def clustered(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(50, 16))
    vectors = centres[rng.integers(0, 50, count)] + rng.normal(size=(count, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def packed_items(count: int, seed: int = 0) -> np.ndarray:
    return pack_int8(torch.from_numpy(clustered(count + 1, seed))).numpy()


def config(name: str = "ivf_sq8", **changes: object):
    return OmegaConf.merge(OmegaConf.load(CONFIG_DIR / "index" / f"{name}.yaml"), changes)


def build(packed: np.ndarray, ids: np.ndarray, factory: str) -> faiss.Index:
    index = train_index(int8_vector_reader(packed), ids, factory)
    add_vectors(index, int8_vector_reader(packed), ids)
    return index


PACKED, IDS, QUERIES = packed_items(ITEMS), np.arange(1, ITEMS + 1), clustered(60, seed=2)
TRUTH = exact_search(int8_vector_reader(PACKED), IDS, QUERIES)


def test_small_catalogs_are_looked_at_as_a_whole(tmp_path: Path) -> None:
    ids = np.arange(1, 401) * 3
    packed = packed_items(1300)
    truth = exact_search(int8_vector_reader(packed), ids, QUERIES)
    assert truth.shape == (60, RECALL_AT)
    tuned = tune_index(int8_vector_reader(packed), packed, ids, QUERIES, truth, config(), tmp_path)
    assert tuned.best_trial.family == "flat_sq8"
    assert tuned.best_trial.metrics.recall > 0.98
    found = ItemIndex(read_shards(tuned.files), packed, tuned.best_trial.search_params).search(
        QUERIES[:1], 10
    )
    assert set(found[0].tolist()) <= set(ids.tolist())


@pytest.mark.parametrize("target", [0.7, 0.97])
def test_the_effort_is_the_least_that_reaches_the_target(target: float) -> None:
    index = build(PACKED, IDS, FACTORIES["ivf_sq8"])
    tried = tune_search_params(ItemIndex([index], PACKED, SearchParams(1)), QUERIES, TRUTH, target)
    effort, measured = tried[-1]
    assert faiss.try_extract_index_ivf(index).nlist == ITEMS // 39
    assert measured.recall >= target
    assert 0 < measured.p50_ms <= measured.p99_ms
    fixed = min(e.probes for e, m in tried if np.isinf(e.centroid_margin) and m.recall >= target)
    less = SearchParams(fixed - max(1, fixed // 8))
    assert measure_search(ItemIndex([index], PACKED, less), QUERIES, TRUTH).recall < target
    assert effort.probes in (fixed, min(2 * fixed, ITEMS // 39))


def test_a_target_out_of_reach_searches_until_nothing_is_found() -> None:
    index = ItemIndex([build(PACKED, IDS, FACTORIES["ivf_sq8"])], PACKED, SearchParams(1))
    effort, measured = tune_search_params(index, QUERIES[:10], TRUTH[:10], 1.1)[-1]
    assert effort.probes > ITEMS // 39 // 4
    assert measured.recall == pytest.approx(
        measure_search(index.with_search_params(SearchParams(ITEMS // 39)), QUERIES[:10], TRUTH[:10]).recall,
        abs=0.002,
    )


def test_the_tuner_takes_what_meets_its_targets_and_says_what_it_misses(tmp_path: Path) -> None:
    cfg = config("auto", recall=0.9, bytes_per_vector=40, p99_ms=None)
    vectors = int8_vector_reader(PACKED)
    tuned = tune_index(vectors, PACKED, IDS, QUERIES, TRUTH, cfg, tmp_path / "all")
    assert {choice.family for choice in tuned.trials} == set(cfg.families)
    assert tuned.best_trial.bytes_per_vector <= 40
    assert tuned.best_trial.metrics.recall >= 0.9
    assert not tuned.missed_targets
    cfg = config("auto", recall=0.99, bytes_per_vector=10, p99_ms=None)
    small = tune_index(vectors, PACKED, IDS, QUERIES, TRUTH, cfg, tmp_path / "small")
    assert "bytes per vector > 10" in small.missed_targets
    best = pareto_front(trial_rows(tuned))
    assert max(row["recall"] for row in best) == max(row["recall"] for row in trial_rows(tuned))
    assert len(best) < len(tuned.trials)
    assert sum(row["chosen"] for row in trial_rows(tuned)) == 1
    page = index_page(trial_rows(tuned), "The index", "as asked")
    assert page.count("<circle") == sum(row["recall"] >= 0.9 for row in trial_rows(tuned))


@pytest.fixture(scope="module", params=["ivf_sq8", "ivf_pq", "ivf_rabitq", "hnsw_sq8", "flat"])
def index(request: pytest.FixtureRequest) -> ItemIndex:
    """An index of each kind, searched so little that a filter finds too few at first."""
    refine = 2.0 if request.param in ("ivf_pq", "ivf_rabitq") else 1.0
    return ItemIndex([build(PACKED, IDS, FACTORIES[request.param])], PACKED, SearchParams(2, 0.2, refine))


@settings(max_examples=25, deadline=None)
@given(
    share=st.sampled_from([0, 0.0005, 0.01, 0.34, 0.5, 0.9, 1]), k=st.integers(1, 700), seed=st.integers(0, 9)
)
def test_never_an_ineligible_item_and_never_fewer_than_there_are(
    index: ItemIndex, share: float, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    allowed = rng.random(ITEMS + 1) < share
    allowed[0] = False
    queries = QUERIES[seed : seed + 3]
    found = index.search(queries, k, allowed)
    assert found.shape == (3, k)
    for row in found:
        shown = row[row >= 0]
        assert allowed[shown].all()
        assert len(set(shown.tolist())) == len(shown) == min(k, allowed.sum())
        assert (row[len(shown) :] == -1).all()


@pytest.mark.parametrize("family", sorted(FACTORIES))
def test_a_mapped_file_answers_as_the_index_that_was_built(tmp_path: Path, family: str) -> None:
    built, file = build(PACKED, IDS, FACTORIES[family]), str(tmp_path / "index.faiss")
    faiss.write_index(built, file)
    effort = SearchParams(20, 0.5, 2.0)
    mapped = ItemIndex([read_index(file)], PACKED, effort)
    found = mapped.search(QUERIES, 30)
    np.testing.assert_array_equal(found, ItemIndex([built], PACKED, effort).search(QUERIES, 30))
    if "SQ" in FACTORIES[family] and mapped.centroids is not None:
        lists = faiss.downcast_InvertedLists(mapped.ivf_indexes[0].invlists)
        assert type(lists).__name__ == "OnDiskInvertedLists"
        assert lists.prefetch_nthread == 0


@pytest.mark.parametrize("family", sorted(FACTORIES))
def test_shards_answer_as_one_index(tmp_path: Path, family: str) -> None:
    vectors, effort = int8_vector_reader(PACKED), SearchParams(20, 0.5, 2.0)
    empty = train_index(vectors, IDS, FACTORIES[family])
    files = write_shards(empty, vectors, IDS, tmp_path, shards=3)
    assert [file.name for file in files] == [f"index-00{shard}.faiss" for shard in range(3)]
    assert sum(index.ntotal for index in read_shards(files)) == ITEMS
    sharded = ItemIndex(read_shards(files), PACKED, effort)
    allowed = np.random.default_rng(0).random(ITEMS + 1) < 0.5
    whole = ItemIndex(read_shards(write_shards(empty, vectors, IDS, tmp_path)), PACKED, effort)
    if family == "hnsw_sq8":  # a graph of its own each, so together they find more
        assert measure_search(sharded, QUERIES, TRUTH).recall >= measure_search(whole, QUERIES, TRUTH).recall
    else:
        for mask in (None, allowed):
            same = sharded.search(QUERIES, 30, mask) == whole.search(QUERIES, 30, mask)
            assert same.mean() > 0.9 if family == "ivf_pq" else same.all()  # many of its codes score alike
        assert imbalance_factor(sharded.shards) == imbalance_factor(whole.shards) >= 1


def test_shards_of_two_builds_are_refused() -> None:
    one, other = (build(PACKED, ids, "IVF8,SQ8") for ids in (IDS[:400], IDS[400:]))
    with pytest.raises(ValueError, match="different builds"):
        ItemIndex([one, other], PACKED, SearchParams(1))


def test_another_quantizer_may_choose_the_lists_while_items_are_added() -> None:
    vectors = int8_vector_reader(PACKED)
    alone, helped = (train_index(vectors, IDS, FACTORIES["ivf_sq8"]) for _ in range(2))
    add_vectors(alone, vectors, IDS)
    lists = faiss.extract_index_ivf(helped)
    copy = faiss.IndexFlatIP(16)
    copy.add(lists.quantizer.reconstruct_n(0, lists.nlist))
    with override_quantizer(lists, copy):
        add_vectors(helped, vectors, IDS)
    del copy
    found = (ItemIndex([index], PACKED, SearchParams(20)).search(QUERIES, 30) for index in (alone, helped))
    np.testing.assert_array_equal(*found)


def test_what_cannot_be_searched_or_built_is_refused() -> None:
    index = build(PACKED, IDS, FACTORIES["ivf_sq8"])
    items = ItemIndex([index], PACKED, SearchParams(4))
    with pytest.raises(ValueError, match="not finite"):
        items.search(np.full((1, 16), np.nan, np.float32), 5)
    with pytest.raises(ValueError, match=r"expected \[B, 16\]"):
        items.search(QUERIES[:, :8], 5)
    with pytest.raises(ValueError, match="expected 1 or more"):
        items.search(QUERIES, 0)
    with pytest.raises(ValueError, match="16 dimensions, item vectors have 8"):
        ItemIndex([index], PACKED[:, :16], SearchParams(4))
    with pytest.raises(ValueError, match="inner product"):
        ItemIndex([faiss.IndexFlatL2(16)], PACKED, SearchParams(4))
    with pytest.raises(ValueError, match="no item to index"):
        build(PACKED, IDS[:0], FACTORIES["ivf_sq8"])
    with pytest.raises(ValueError, match="more than once"):
        build(PACKED, np.r_[IDS, 5], FACTORIES["ivf_sq8"])
    broken = PACKED.copy()
    broken[7, -8:] = 255  # a scale that is no number
    with pytest.raises(ValueError, match="item row 7 is not finite"):
        build(broken, IDS, FACTORIES["ivf_sq8"])
    # More than there are: all of them, in order of nearness, and nothing behind.
    few = ItemIndex([build(PACKED, IDS[:40], "IVF1,SQ8")], PACKED, SearchParams(1))
    some = few.search(QUERIES[:1], 50)[0]
    assert sorted(some[:40].tolist()) == IDS[:40].tolist()
    assert (some[40:] == -1).all()
