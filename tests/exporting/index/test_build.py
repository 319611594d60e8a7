"""The index reaches its target recall of exact search, under any filter."""

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
from exporting.index.families import FAMILIES, IndexFamily, factory_family
from exporting.index.tuning import trial_rows, tune_index
from models.embeddings import pack_int8
from reporting.index_page import index_page, pareto_front
from serving.storage.vector_index import ItemIndex, SearchParams, read_index
from training.config_files import CONFIG_DIR

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


def build(packed: np.ndarray, ids: np.ndarray, family: IndexFamily) -> faiss.Index:
    index = train_index(int8_vector_reader(packed), ids, family)
    add_vectors(index, int8_vector_reader(packed), ids)
    return index


PACKED, IDS, QUERIES = packed_items(ITEMS), np.arange(1, ITEMS + 1), clustered(60, seed=2)
TRUTH = exact_search(int8_vector_reader(PACKED), IDS, QUERIES)


def test_small_catalogs_are_scanned_as_a_whole(tmp_path: Path) -> None:
    ids = np.arange(1, 401) * 3
    packed = packed_items(1300)
    truth = exact_search(int8_vector_reader(packed), ids, QUERIES)
    assert truth.shape == (60, RECALL_AT)
    tuned = tune_index(int8_vector_reader(packed), packed, ids, QUERIES, truth, config(), tmp_path)
    assert tuned.best_trial.family == "flat_sq8"
    assert tuned.best_trial.metrics.recall > 0.98
    index = ItemIndex(read_shards(tuned.files), packed, tuned.best_trial.search_params)
    assert set(index.search(QUERIES[:1], 10)[0].tolist()) <= set(ids.tolist())


@pytest.mark.parametrize("target", [0.7, 0.97])
def test_the_fewest_probes_that_reach_the_target_are_chosen(target: float) -> None:
    index = build(PACKED, IDS, FAMILIES["ivf_sq8"])
    best, points = tune_search_params(ItemIndex([index], PACKED, SearchParams(1)), QUERIES, TRUTH, target)
    assert faiss.try_extract_index_ivf(index).nlist == ITEMS // 39
    assert best in points
    assert best.metrics.recall >= target
    assert 0 < best.metrics.p50_ms <= best.metrics.p99_ms
    fewest = min(
        point.search_params.probes
        for point in points
        if np.isinf(point.search_params.centroid_margin) and point.metrics.recall >= target
    )
    fewer = SearchParams(fewest - max(1, fewest // 8))
    assert measure_search(ItemIndex([index], PACKED, fewer), QUERIES, TRUTH).recall < target
    assert best.search_params.probes in (fewest, min(2 * fewest, ITEMS // 39))


def test_a_target_out_of_reach_is_searched_until_recall_stops_rising() -> None:
    index = ItemIndex([build(PACKED, IDS, FAMILIES["ivf_sq8"])], PACKED, SearchParams(1))
    params, metrics = tune_search_params(index, QUERIES[:10], TRUTH[:10], 1.1).best
    assert params.probes > ITEMS // 39 // 4
    assert metrics.recall == pytest.approx(
        measure_search(index.with_search_params(SearchParams(ITEMS // 39)), QUERIES[:10], TRUTH[:10]).recall,
        abs=0.002,
    )


def test_the_tuner_chooses_what_meets_its_targets_and_names_missed_ones(tmp_path: Path) -> None:
    cfg = config("auto", recall=0.9, bytes_per_vector=40, p99_ms=None)
    vectors = int8_vector_reader(PACKED)
    tuned = tune_index(vectors, PACKED, IDS, QUERIES, TRUTH, cfg, tmp_path / "all")
    assert {trial.family for trial in tuned.trials} == set(cfg.families)
    assert tuned.best_trial.bytes_per_vector <= 40
    assert tuned.best_trial.metrics.recall >= 0.9
    assert not tuned.missed_targets
    cfg = config("auto", recall=0.99, bytes_per_vector=10, p99_ms=None)
    small = tune_index(vectors, PACKED, IDS, QUERIES, TRUTH, cfg, tmp_path / "small")
    assert "bytes per vector > 10" in small.missed_targets
    rows = trial_rows(tuned)
    front = pareto_front(rows)
    assert max(row["recall"] for row in front) == max(row["recall"] for row in rows)
    assert len(front) < len(tuned.trials)
    assert sum(row["chosen"] for row in rows) == 1
    page = index_page(rows, "The index", "Targets")
    assert page.count("<circle") == 2 * sum(row["recall"] >= 0.9 for row in rows)  # wide and narrow


@pytest.fixture(scope="module", params=["ivf_sq8", "ivf_pq", "ivf_rabitq", "hnsw_sq8", "flat"])
def index(request: pytest.FixtureRequest) -> ItemIndex:
    """An index of each kind, with so few probes that a filter leaves too few items at first."""
    refine = 2.0 if request.param in ("ivf_pq", "ivf_rabitq") else 1.0
    return ItemIndex([build(PACKED, IDS, FAMILIES[request.param])], PACKED, SearchParams(2, 0.2, refine))


@settings(max_examples=25, deadline=None)
@given(
    share=st.sampled_from([0, 0.0005, 0.01, 0.34, 0.5, 0.9, 1]), k=st.integers(1, 700), seed=st.integers(0, 9)
)
def test_never_an_ineligible_item_and_never_fewer_than_there_are(
    index: ItemIndex, share: float, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    eligible = rng.random(ITEMS + 1) < share
    eligible[0] = False
    queries = QUERIES[seed : seed + 3]
    results = index.search(queries, k, eligible)
    assert results.shape == (3, k)
    for row in results:
        items = row[row >= 0]
        assert eligible[items].all()
        assert len(set(items.tolist())) == len(items) == min(k, eligible.sum())
        assert (row[len(items) :] == -1).all()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_mapped_file_answers_as_the_index_that_was_built(tmp_path: Path, family: str) -> None:
    built, file = build(PACKED, IDS, FAMILIES[family]), str(tmp_path / "index.faiss")
    faiss.write_index(built, file)
    params = SearchParams(20, 0.5, 2.0)
    mapped = ItemIndex([read_index(file)], PACKED, params)
    expected = ItemIndex([built], PACKED, params).search(QUERIES, 30)
    np.testing.assert_array_equal(mapped.search(QUERIES, 30), expected)
    if "sq" in family and mapped.centroids is not None:
        lists = faiss.downcast_InvertedLists(mapped.ivf_indexes[0].invlists)
        assert type(lists).__name__ == "OnDiskInvertedLists"
        assert lists.prefetch_nthread == 0


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_shards_answer_as_one_index(tmp_path: Path, family: str) -> None:
    vectors, params = int8_vector_reader(PACKED), SearchParams(20, 0.5, 2.0)
    empty = train_index(vectors, IDS, FAMILIES[family])
    files = write_shards(empty, vectors, IDS, tmp_path, shards=3)
    assert [file.name for file in files] == [f"index-00{shard}.faiss" for shard in range(3)]
    assert sum(index.ntotal for index in read_shards(files)) == ITEMS
    sharded = ItemIndex(read_shards(files), PACKED, params)
    eligible = np.random.default_rng(0).random(ITEMS + 1) < 0.5
    whole = ItemIndex(read_shards(write_shards(empty, vectors, IDS, tmp_path)), PACKED, params)
    if family == "hnsw_sq8":  # each shard has its own graph, so together they find more
        assert measure_search(sharded, QUERIES, TRUTH).recall >= measure_search(whole, QUERIES, TRUTH).recall
    else:
        for mask in (None, eligible):
            same = sharded.search(QUERIES, 30, mask) == whole.search(QUERIES, 30, mask)
            assert same.mean() > 0.9 if family == "ivf_pq" else same.all()  # many of its codes score alike
        assert imbalance_factor(sharded.shards) == imbalance_factor(whole.shards) >= 1


def test_shards_of_two_builds_are_refused() -> None:
    shards = [build(PACKED, ids, factory_family("IVF8,SQ8")) for ids in (IDS[:400], IDS[400:])]
    with pytest.raises(ValueError, match="different builds"):
        ItemIndex(shards, PACKED, SearchParams(1))


def test_another_quantizer_may_choose_the_lists_while_items_are_added() -> None:
    vectors = int8_vector_reader(PACKED)
    plain, overridden = (train_index(vectors, IDS, FAMILIES["ivf_sq8"]) for _ in range(2))
    add_vectors(plain, vectors, IDS)
    ivf = faiss.extract_index_ivf(overridden)
    quantizer = faiss.IndexFlatIP(16)
    quantizer.add(ivf.quantizer.reconstruct_n(0, ivf.nlist))
    with override_quantizer(ivf, quantizer):
        add_vectors(overridden, vectors, IDS)
    del quantizer
    expected, results = (
        ItemIndex([index], PACKED, SearchParams(20)).search(QUERIES, 30) for index in (plain, overridden)
    )
    np.testing.assert_array_equal(results, expected)


def test_what_cannot_be_searched_or_built_is_refused() -> None:
    index = build(PACKED, IDS, FAMILIES["ivf_sq8"])
    items = ItemIndex([index], PACKED, SearchParams(4))
    with pytest.raises(ValueError, match="not finite"):
        items.search(np.full((1, 16), np.nan, np.float32), 5)
    with pytest.raises(ValueError, match=r"expected \[B, 16\]"):
        items.search(QUERIES[:, :8], 5)
    with pytest.raises(ValueError, match="expected 0 or more"):
        items.search(QUERIES, -1)
    assert items.search(QUERIES, 0).shape == (len(QUERIES), 0)
    with pytest.raises(ValueError, match="16 dimensions, item vectors have 8"):
        ItemIndex([index], PACKED[:, :16], SearchParams(4))
    with pytest.raises(ValueError, match="inner product"):
        ItemIndex([faiss.IndexFlatL2(16)], PACKED, SearchParams(4))
    with pytest.raises(ValueError, match="no item is available"):
        build(PACKED, IDS[:0], FAMILIES["ivf_sq8"])
    with pytest.raises(ValueError, match="more than once"):
        build(PACKED, np.r_[IDS, 5], FAMILIES["ivf_sq8"])
    broken = PACKED.copy()
    broken[7, -8:] = 255  # the scale becomes NaN
    with pytest.raises(ValueError, match="item row 7 is not finite"):
        build(broken, IDS, FAMILIES["ivf_sq8"])


def test_a_search_for_more_items_than_there_are_returns_all() -> None:
    index = ItemIndex([build(PACKED, IDS[:40], factory_family("IVF1,SQ8"))], PACKED, SearchParams(1))
    row = index.search(QUERIES[:1], 50)[0]
    assert sorted(row[:40].tolist()) == IDS[:40].tolist()
    assert (row[40:] == -1).all()


def small_lists(dim: int, count: int) -> faiss.Index:
    """A family of the user: more and smaller lists than the shipped ones."""
    return faiss.index_factory(dim, f"IVF{count // 40},SQ8", faiss.METRIC_INNER_PRODUCT)


COARSE = IndexFamily(lambda dim, count: faiss.index_factory(dim, "IVF64,SQ4", 0), refine_factors=(1.0, 4.0))


def transformed(dim: int, count: int) -> faiss.Index:
    return faiss.index_factory(dim, "PCA8,IVF16,Flat", faiss.METRIC_INNER_PRODUCT)


def by_distance(dim: int, count: int) -> faiss.Index:
    return faiss.index_factory(dim, "IVF16,Flat", faiss.METRIC_L2)


def failing(dim: int, count: int) -> faiss.Index:
    return faiss.index_factory(dim, "IVFmany,Flat", faiss.METRIC_INNER_PRODUCT)


def test_families_of_a_dotted_path_are_built_and_measured_as_all_others(tmp_path: Path) -> None:
    names = ["ivf_sq8", f"{__name__}.small_lists", f"{__name__}.COARSE"]
    cfg = config(families=names, recall=0.9)
    tuned = tune_index(int8_vector_reader(PACKED), PACKED, IDS, QUERIES, TRUTH, cfg, tmp_path)
    assert {trial.family for trial in tuned.trials} == set(names)
    coarse = [trial for trial in tuned.trials if trial.family == names[2]]
    assert {trial.search_params.refine_factor for trial in coarse} == {1.0, 4.0}
    assert tuned.best_trial.metrics.recall >= 0.9
    assert all(trial.build_s > 0 and trial.bytes_per_vector > 8 for trial in tuned.trials)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("ivf_sq9", "expected flat, flat_sq8"),
        ("no_such_package.family", "no module no_such_package"),
        (f"{__name__}.smal_lists", "Did you mean small_lists"),
        (f"{__name__}.ITEMS", "neither a function"),
        (f"{__name__}.transformed", "cannot search a IndexPreTransform"),
        (f"{__name__}.by_distance", "must return an inner-product index of 16 dimensions"),
        (f"{__name__}.failing", "index_factory"),
        (f"{__name__}.clustered", "expected a faiss.Index"),
    ],
)
def test_a_family_that_cannot_serve_is_refused(tmp_path: Path, family: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"index.families.*{reason}"):
        tune_index(
            int8_vector_reader(PACKED), PACKED, IDS, QUERIES, TRUTH, config(families=[family]), tmp_path
        )
