"""Configs compose, instantiate, and refuse what they do not know."""

import inspect

import pytest
from hydra import compose, initialize_config_dir

from training.build_ranker import build_ranker
from training.build_two_tower import build_two_tower
from training.config import CONFIG_DIR, ConfigError, check_overrides, check_values

SIZES = {
    "items": 31, "categories": 16, "brands": 5, "tokens": 12, "category_levels": 3,
    "context": [4], "profile": [3, 3],
}  # fmt: skip
RANKERS = sorted(file.stem for file in (CONFIG_DIR / "ranker").glob("*.yaml"))
EXPERIMENTS = sorted(file.stem for file in (CONFIG_DIR / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("ranker", RANKERS)
@pytest.mark.parametrize("experiment", ["", *EXPERIMENTS])
def test_every_ranker_and_experiment_composes_and_builds(experiment: str, ranker: str) -> None:
    chosen = [f"ranker={ranker}"] + ([f"experiment={experiment}"] if experiment else [])
    check_overrides("train", chosen)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=chosen)
    assert build_two_tower(cfg, SIZES).item_encoder.embeddings.output_dim > 0
    built = build_ranker(cfg, SIZES)
    assert len(built.interactions.feature_names) > 50
    assert cfg.ranker.multitask._target_.rsplit(".", 1)[-1] == type(built.multitask).__name__


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONFIG_DIR / "query").glob("*.yaml")))
def test_every_query_encoder_is_built_by_its_name(name: str) -> None:
    check_overrides("train", [f"query={name}"])
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=[f"query={name}", "experiment=debug"])
    check_values(cfg)
    query = build_two_tower(cfg, SIZES).query_encoder
    assert type(query).__name__ == f"{name.capitalize()}Encoder"
    keys = set(inspect.signature(type(query).__init__).parameters) - {"self", "dims"}
    assert set(cfg.retrieval.model.query) == keys | {"_target_"}  # one to one with the constructor


def test_an_encoder_that_cannot_be_built_says_why() -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["query=transformer", "retrieval.model.query.heads=3"])
    with pytest.raises(ConfigError, match="heads=3 must divide the width of the item vectors, 64"):
        build_two_tower(cfg, SIZES)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("query=transfomer", "Did you mean transformer"),
        ("sed=1", "Did you mean seed"),
        ("retrieval.train.epoch=3", "Did you mean retrieval.train.epochs"),
        ("epochs=3", "retrieval.train.epochs or ranker.train.epochs"),
        ("ranker=mmo", "Did you mean mmoe"),
        ("ranker.multitask.specific_experts=2", "no such key"),  # of another variant
        ("retrieval.train.epochs=many", "expected a int"),
        ("+new=1", "cannot be added"),
        ("ranker.train.epochs.more=1", "no such key"),
        ("ranker.train=5", "is a group of keys"),
        ("retrieval.train.epochs=1.5", "expected a int"),
        ("retrieval.train.epochs=null", "expected a int"),
        ("index=ivf_sq8", "no such key"),
        ("stage=retrievel", "Did you mean retrieval"),
        ("data.root=my shop (1)", "quote the value"),
    ],
)
def test_a_wrong_override_names_the_right_one(argument: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_overrides("train", [argument])


@pytest.mark.parametrize(
    "arguments", [["seed=3"], ["-m", "seed=0,1,2"], ["ranker=ple", "ranker.multitask.shared_experts=1"],
                  ["data=tables", "data.root=x"],
                  ["ranker.multitask.hidden=[8,4]"], ["hydra.verbose=true"], ["trainer=cpu"]],
)  # fmt: skip
def test_right_overrides_pass(arguments: list[str]) -> None:
    check_overrides("train", arguments)


def test_an_experiment_cannot_bring_keys_of_its_own(tmp_path, monkeypatch) -> None:
    import shutil

    import training.config as config

    shutil.copytree(CONFIG_DIR, tmp_path / "configs")
    (tmp_path / "configs" / "experiment" / "typo.yaml").write_text(
        "# @package _global_\nretrieval: {train: {epoch: 1}}\n"
    )
    monkeypatch.setattr(config, "CONFIG_DIR", tmp_path / "configs")
    with pytest.raises(ConfigError, match=r"retrieval\.train\.epoch: no such key.*retrieval\.train\.epochs"):
        check_overrides("train", ["experiment=typo"])


@pytest.mark.parametrize(
    "override",
    ["retrieval.train.epochs=-1", "retrieval.train.share=1", "ranker.train.batch_size=0",
     "data.snapshots.every=0",
     "data.split.test_share=2", "features.category_levels=0", "retrieval.train.positives=0",
     "retrieval.model.item.id_rows=1", "retrieval.model.item.id_rows=many"],
)  # fmt: skip
def test_a_number_outside_its_limits_is_refused(override: str) -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=[override])
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        check_values(cfg)


@pytest.mark.parametrize("config", ["train", "export"])
def test_the_defaults_are_inside_the_limits(config: str) -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        check_values(compose(config))
