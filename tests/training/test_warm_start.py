"""Weights of an earlier run in the rows that stand for the same now, and what is left to learn."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf

from benchmarks import model_age
from data.errors import DataError
from data.feature_schema import Attribute, FeatureSchema
from data.prepare import prepare
from data.tables.item_vectors import VectorColumn
from tests.data.shop import START, iso, write_shop
from tests.exporting.bundles import load_config
from training.build_ranker import build_ranker
from training.build_two_tower import build_two_tower
from training.config import ConfigError
from training.pipeline import train_models
from training.prepared_data import open_prepared
from training.stage_folders import read_stage_manifest
from training.trained_run import open_run
from training.warm_start import (
    _check_same_columns,
    load_warm_start,
    map_vocabulary,
    trained_item_mask,
    warm_ranker_weights,
    warm_start_weights,
    with_training_window,
)

DAY = 86_400
UNTIL = iso(START + 80 * DAY)


def settings(folder: Path, *overrides: str) -> list[str]:
    return [
        "data=tables", "experiment=debug", f"data.root={folder / 'shop'}", "prepare.memory_limit=1GB",
        "data.horizon=7d", f"paths.prepared={folder / 'prepared'}", f"paths.runs={folder / 'runs'}",
        f"mlflow.tracking_uri=sqlite:///{folder / 'mlflow.db'}", "features.token_min_items=1", *overrides,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder, run): trained on a log that ended early; items were put in front of the list since."""
    folder = tmp_path_factory.mktemp("warm")
    write_shop(folder / "shop", users=40, items=40, days=110)
    run = train_models(load_config("train", *settings(folder, f"data.until='{UNTIL}'")))
    file = folder / "shop" / "items.csv"
    head, *rows = file.read_text().splitlines()
    new = ",".join(["new", '"A new fig"', "food/fig", "brand9", "2.5"])
    file.write_text("\n".join([head, new, *rows]) + "\n")
    return folder, run


def make_schema(**columns: Any) -> FeatureSchema:
    """A feature schema without items and words."""
    words: dict[str, Any] = {name: [] for name in ("categories", "brands", "tokens", "token_idf")}
    return FeatureSchema(items=0, max_history=1, category_levels=1, **words, **columns)


def test_words_are_found_again() -> None:
    assert map_vocabulary(["a", "b", "c"], ["c", "x", "a"]).tolist() == [0, 3, -1, 1]


def test_weights_stand_where_what_they_are_of_stands_now(earlier: tuple[Path, Path]) -> None:
    folder, earlier_run = earlier
    cfg = with_training_window(load_config("train", *settings(folder, f"warm.run={earlier_run}")))
    prepared = open_prepared(prepare(cfg))
    warm = load_warm_start(cfg, prepared.folder)
    assert warm is not None
    earlier_prepared = Path(earlier_run, read_stage_manifest(earlier_run)["prepared"]).resolve()
    split = json.loads((earlier_prepared / "meta.json").read_text())["split"]
    examples = pq.read_table(prepared.folder / "examples" / "train.parquet", columns=["ts"])["ts"].to_numpy()
    assert examples.min() > split["validation_start"] - 7 * DAY
    assert prepared.meta["counts"]["checkouts"]["earlier"] > len(examples) > 0
    towers = warm_start_weights(
        lambda: build_two_tower(cfg, prepared.table_sizes), warm.tower_weights, warm.previous_rows
    )
    ranker = warm_start_weights(
        lambda: build_ranker(cfg, prepared.table_sizes), warm.ranker_weights, warm.previous_rows
    )
    table = "item_encoder.embeddings.collection.embedding_bags.item.weight"
    assert warm.previous_rows["item"][:4].tolist() == [0, -1, 1, 2]  # moved by the item that came in front
    torch.testing.assert_close(towers[table][2:], warm.tower_weights[table][1:])
    earlier_schema, schema = FeatureSchema.load(earlier_prepared), FeatureSchema.load(prepared.folder)
    assert schema.categories != earlier_schema.categories
    for name, weights in (("item_embeddings.collection.embedding_bags.leaf.weight", ranker),):
        for category in earlier_schema.categories:
            row, earlier_row = (
                schema.categories.index(category) + 1,
                earlier_schema.categories.index(category) + 1,
            )
            torch.testing.assert_close(weights[name][row], warm.ranker_weights[name][earlier_row])
    for name, tensor in warm.ranker_weights.items():
        if "embedding_bags" not in name:
            torch.testing.assert_close(ranker[name], tensor)
    trained = trained_item_mask(warm)
    assert not trained[1]
    assert torch.equal(trained[2:], warm.tower_weights["item_encoder.trained_mask"][1:])


def test_a_warm_run_goes_on_where_the_other_was(
    earlier: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    """With no step to learn in, the weights are those of the run before: sharding keeps them."""
    folder, earlier_run = earlier
    tiny_rates = [f"{stage}.train.{rate}=1e-8" for stage in ("retrieval", "ranker")
             for rate in ("learning_rate", "table_learning_rate")]  # fmt: skip
    cfg = load_config("train", *settings(folder, f"warm.run={earlier_run}", *tiny_rates))
    run = train_models(cfg)
    assert run != earlier_run
    warm = load_warm_start(cfg, Path(run, read_stage_manifest(run)["prepared"]).resolve())
    assert warm is not None
    weights = torch.load(Path(run, read_stage_manifest(run)["retrieval"], "weights.pt"))
    for name, tensor in warm.tower_weights.items():
        if "embedding_bags" not in name and name != "item_encoder.trained_mask":
            torch.testing.assert_close(weights[name], tensor, atol=1e-4, rtol=1e-3)
    table = "item_encoder.embeddings.collection.embedding_bags.item.weight"
    torch.testing.assert_close(weights[table][2:], warm.tower_weights[table][1:], atol=1e-4, rtol=1e-3)
    assert train_models(cfg) == run  # reused
    capsys.readouterr()


def test_the_study_of_model_age_holds_both_to_one_window(earlier: tuple[Path, Path]) -> None:
    folder, earlier_run = earlier
    run = train_models(load_config("train", *settings(folder, f"warm.run={earlier_run}")))
    newest, old = model_age.compare_runs(open_run(run), [earlier_run])
    assert (newest["mode"], old["mode"]) == ("incremental", "full")
    assert (newest["difference"], newest["low"], newest["high"], newest["weeks_old"]) == (0, 0, 0, 0)
    assert old["weeks_old"] == pytest.approx(30 / 7, abs=0.2)
    assert old["ndcg6"] - newest["ndcg6"] == pytest.approx(old["difference"])
    assert newest["minutes"] >= newest["prepare_minutes"] >= 0  # to a tenth: they are seconds
    page = model_age.html_page([newest, old])
    assert f"{old['ndcg6']:.4f}" in page
    assert earlier_run.name in page


def test_a_given_start_of_the_training_window_stays(earlier: tuple[Path, Path]) -> None:
    folder, earlier_run = earlier
    warm = f"warm.run={earlier_run}"
    cfg = with_training_window(load_config("train", *settings(folder, warm)))
    assert cfg.data.since is not None
    since = iso(START + 60 * DAY)
    given_cfg = load_config("train", *settings(folder, warm, f"data.since='{since}'"))
    assert with_training_window(given_cfg).data.since == since != cfg.data.since


def test_a_start_after_the_training_split_is_refused(earlier: tuple[Path, Path]) -> None:
    folder, earlier_run = earlier
    since = iso(START + 105 * DAY)
    cfg = load_config("train", *settings(folder, f"warm.run={earlier_run}", f"data.since='{since}'"))
    with pytest.raises(DataError, match=r"no checkout falls into train: .*move the dates of .*data\.since"):
        prepare(with_training_window(cfg))


def test_weights_of_other_columns_are_refused() -> None:
    store, city = Attribute(name="store", values=["a"]), Attribute(name="city", values=["b"])
    before = make_schema(context=[store], profile=[city])
    _check_same_columns(before, make_schema(context=[store], profile=[city]))
    with pytest.raises(
        ConfigError,
        match=r"warm\.run: the order attributes of the earlier run .store. differ from today.s .city.",
    ):
        _check_same_columns(before, make_schema(context=[city], profile=[city]))
    vectors = [VectorColumn("embedding", 4)]
    with pytest.raises(
        ConfigError,
        match=r"item vectors of the earlier run \(none\) differ from today's \(embedding \[4\]\)\. To",
    ):
        _check_same_columns(before, make_schema(context=[store], profile=[city], item_vectors=vectors))


def test_a_ranker_of_other_features_or_tasks_is_refused(earlier: tuple[Path, Path]) -> None:
    """Shapes alone would take a ranker whose features or tasks only changed places."""
    folder, earlier_run = earlier
    cfg = load_config("train", *settings(folder, f"warm.run={earlier_run}"))
    prepared = open_prepared(earlier_run / read_stage_manifest(earlier_run)["prepared"])
    warm = load_warm_start(cfg, prepared.folder)
    assert warm is not None
    build = partial(build_ranker, cfg, prepared.table_sizes)
    torch.testing.assert_close(warm_ranker_weights(build, warm), warm.ranker_weights)
    for part in ("features", "tasks"):
        swapped = warm.ranker_outline | {part: warm.ranker_outline[part][::-1]}
        with pytest.raises(ConfigError, match=f"the ranker's {part} differ from those of ranker-"):
            warm_ranker_weights(build, warm._replace(ranker_outline=swapped))
    assert warm_ranker_weights(build, warm._replace(ranker_outline={}))  # of a release that kept none


def test_what_cannot_be_warmed_is_refused(earlier: tuple[Path, Path]) -> None:
    folder, earlier_run = earlier
    cfg = load_config("train", *settings(folder, f"warm.run={folder}/nothing"))
    prepared = open_prepared(prepare(cfg))
    with pytest.raises(ConfigError, match=r"warm\.run=.*nothing: no finished run"):
        load_warm_start(cfg, prepared.folder)
    with pytest.raises(ConfigError, match=r"warm\.run=.*nothing: no finished run"):
        with_training_window(cfg)
    cfg.warm.run = str(earlier_run)
    warm = load_warm_start(cfg, prepared.folder)
    assert warm is not None
    wider = OmegaConf.merge(cfg, {"ranker": {"multitask": {"tower": 9}}})
    with pytest.raises(ConfigError, match=r"train from scratch with warm\.run=null"):
        warm_start_weights(
            lambda: build_ranker(wider, prepared.table_sizes), warm.ranker_weights, warm.previous_rows
        )
