"""Configs compose, instantiate, and refuse what they do not know."""

import inspect
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from models.retrieval.mean_encoder import MeanEncoder
from models.retrieval.sequence_encoder import SequenceEncoder
from training.build_ranker import build_ranker
from training.build_two_tower import build_two_tower
from training.config import ConfigError, check_overrides, check_values, compose_config
from training.config_files import CONFIG_DIR
from training.config_keys import flatten_config, suggest_names

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
    assert isinstance(query, MeanEncoder if name == "mean" else SequenceEncoder)
    keys = set(inspect.signature(type(query).__init__).parameters) - {"self", "dims"}
    assert set(cfg.retrieval.model.query) == keys | {"_target_"}  # one to one with the constructor


def test_an_encoder_that_cannot_be_built_says_why() -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["query=sasrec", "retrieval.model.query.blocks.heads=3"])
    with pytest.raises(ConfigError, match="heads=3 must divide the width of the item vectors, 64"):
        build_two_tower(cfg, SIZES)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("query=sasrek", "Did you mean sasrec"),
        ("sed=1", "Did you mean seed"),
        ("retrieval.train.epoch=3", "Did you mean retrieval.train.epochs"),
        ("lr=1e-3", r"mean retrieval\.train\.learning_rate or ranker\.train\.learning_rate\?"),
        ("ranker.train.lr=1e-3", r"Did you mean ranker\.train\.learning_rate\?"),
        ("ranker.lr=1e-3", r"Did you mean ranker\.train\.learning_rate\?"),
        ("bs=64", r"mean retrieval\.train\.batch_size or ranker\.train\.batch_size\?"),
        ("wd=0.1", r"retrieval\.train\.optimizer\.weight_decay or ranker\.train\.optimizer\.weight_decay"),
        ("epoch=3", r"mean retrieval\.train\.epochs or ranker\.train\.epochs\?"),
        ("epochs=3", "retrieval.train.epochs or ranker.train.epochs"),
        ("ranker=mmo", "Did you mean mmoe"),
        ("ranker.multitask.specific_experts=2", "MMoE takes no specific_experts. Did you mean experts"),
        ("+ranker.multitask.expert=2", "Did you mean experts"),
        ("tasks.click.wight=2", "tasks.click.wight: unknown field of a task. Did you mean weight"),
        ("+tasks.click.loss={_target_: a.focal, gamma: 1}", "tasks.click.loss is one value, not a mapping"),
        (
            "+tasks.wishlist={kind: binary, lable: wishlist}",
            "tasks.wishlist.lable: unknown field of a task. Did you mean label",
        ),
        ("tasks=defautl", "Did you mean default"),
        ("+retrieval.sources.mine={_target_: no_such_package.source}", "no module no_such_package"),
        ("ranker.multitask._target_=models.ranking.multitask.mmoe.MMo", "has no MMo. Did you mean MMoE"),
        (
            "ranker.multitask._target_=models.ranking.multitask.mmo.MMoE",
            "no module models.ranking.multitask.mmo",
        ),
        ("ranker.multitask._target_=MyNetwork", "expected a dotted path"),
        (
            "ranker.multitask._target_=my_networks.Net",
            "no module my_networks.*PYTHONPATH",
        ),
        ("ranker.multitask._target_=models.ranking.multitask.ple.PLE", "PLE takes no experts"),
        ("retrieval.train.epochs=many", "expected a int"),
        ("+new=1", "cannot be added"),
        ("ranker.train.epochs.more=1", "no such key"),
        ("ranker.train=5", "is a group of keys"),
        ("retrieval.train.epochs=1.5", "expected a int"),
        ("retrieval.train.epochs=null", "expected a int"),
        ("index=ivf_sq8", "no such key"),
        ("stage=retrievel", "Did you mean retrieval"),
        ("data.root=my shop (1)", "quote the value"),
        ("data.columns={items: {available: Verfügbar}}", 'put "Verfügbar" in quotes'),
        ("seed=0,1", r"a sweep, which needs -m\. .*'seed=\[0,1\]'"),
        ("ranker.train.optimizer=torch.optim.SGD", "'ranker.train.optimizer={_target_: torch.optim.SGD}'"),
        ("data.columns.orders.oder_id=X", "no such key"),  # of another source of data
    ],
)
def test_a_wrong_override_names_the_right_one(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_overrides("train", [argument])


with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
    KEYS = list(flatten_config(compose("retrain")))


@given(st.sampled_from([key for key in KEYS if "_" in key.rsplit(".", 1)[-1].strip("_")]), st.data())
def test_a_key_is_found_by_the_beginnings_of_its_words(key: str, data: st.DataObject) -> None:
    """By its initials, and with more letters of each word; alone, and below its parents."""
    parent, _, name = key.rpartition(".")
    words = name.strip("_").split("_")
    short = "".join(word[: data.draw(st.integers(1, len(word)))] for word in words)
    for abbreviation in ("".join(word[0] for word in words), short):
        assert key in re.split(r" or |\?| Did you mean ", suggest_names(abbreviation, KEYS))
        assert key in re.split(
            r" or |\?| Did you mean ", suggest_names(f"{parent}.{abbreviation}".lstrip("."), KEYS)
        )


@pytest.mark.parametrize(
    "arguments", [["seed=3"], ["-m", "seed=0,1,2"], ["ranker=ple", "ranker.multitask.shared_experts=1"],
                  ["data=tables", "data.root=x"],
                  ["ranker.multitask.hidden=[8,4]"], ["hydra.verbose=true"], ["trainer=cpu"],
                  ["tasks.click=null"], ["experiment=[debug,fast_dev_run]", "logger=[csv,tensorboard]"],
                  ["-m", "experiment=[debug,sequences],quick", "logger=none"]],
)  # fmt: skip
def test_right_overrides_pass(arguments: list[str]) -> None:
    assert check_overrides("train", arguments) == arguments


def test_an_export_can_turn_the_frequency_cap_off() -> None:
    assert compose_config("export", ["bundle.slate.frequency_cap=null"]).bundle.slate.frequency_cap is None
    with pytest.raises(ConfigError, match="is a group of keys"):
        compose_config("export", ["bundle.slate.frequency_cap=3"])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "columns.orders.oder_id=X",
            "orders has no column oder_id. Did you mean order_id",
        ),
        ("columns.events.shelf=X", "events has no column shelf. Expected user_id, item_id, ts, kind"),
        ("columns.orders.ts.format=X", "no such key"),
        ("columns.order.ts=X", "no such key. Did you mean data.columns.orders"),
        ("files.order=X", "Did you mean data.files.orders"),
    ],
)
def test_a_wrong_name_of_a_column_or_table_names_the_right_one(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_overrides("train", ["data=tables", f"data.{key}"])


def test_columns_of_a_shop_are_mapped_one_by_one() -> None:
    """A name that is not a column of the contract is an attribute."""
    arguments = [
        "data.columns.orders.order_id=Invoice",
        "data.columns.users.user_id={column: U, type: integer}",
        "data.columns.items.color=Farbe",
    ]
    passed = check_overrides("train", ["data=tables", *arguments])
    assert passed == ["data=tables", *(f"++{argument}" for argument in arguments)]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        columns = compose("train", overrides=passed).data.columns
    assert columns.orders == {"order_id": "Invoice"}
    assert columns.users == {"user_id": {"column": "U", "type": "integer"}}


def test_a_class_replaces_another_wherever_options_stand(tmp_path: Path) -> None:
    """argparse takes overrides in one piece."""
    (tmp_path / "my_configs").mkdir()
    folder, radam = str(tmp_path / "my_configs"), "ranker.train.optimizer={_target_: torch.optim.RAdam}"
    expected = ["~ranker.train.optimizer", f"++{radam}"]
    assert check_overrides("train", ["--config-dir", folder, "seed=1", radam]) == [
        "--config-dir", folder, "seed=1", *expected,
    ]  # fmt: skip
    assert check_overrides("train", ["-m", radam, "seed=0,1"]) == ["-m", *expected, "seed=0,1"]
    for overrides in ([radam], ["seed=1", radam], [radam, "seed=1"]):
        config = compose_config("train", overrides, folder)
        assert config.ranker.train.optimizer == {"_target_": "torch.optim.RAdam"}


def test_a_column_may_have_the_name_of_a_setting(tmp_path: Path) -> None:
    """`retrieval.sources.category` is a number; a column of items has this name too."""
    config = compose_config(
        "train", ["data=tables", "data.columns.items.category=Warengruppe", "data.columns.users={seed: Saat}"]
    )
    assert config.data.columns["items"] == {"category": "Warengruppe"}
    assert config.data.columns.users == {"seed": "Saat"}


def test_a_mapping_of_columns_adds_to_that_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my_configs" / "data" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("defaults: [tables, _self_]\ncolumns: {users: {user_id: Kundennummer}}\n")
    config = compose_config(
        "train", ["data=mine", "data.columns.users={user_id: Nr, city: Ort}"], tmp_path / "my_configs"
    )
    assert config.data.columns.users == {"user_id": "Nr", "city": "Ort"}


def test_null_turns_the_frequency_cap_off() -> None:
    assert compose_config("export", ["bundle.slate.frequency_cap=null"]).bundle.slate.frequency_cap is None
    with pytest.raises(ConfigError, match="is a group of keys"):
        compose_config("export", ["bundle.slate.frequency_cap=2"])


def test_keys_of_tasks_and_classes_may_be_added() -> None:
    """Hydra adds a key with `++`, whether or not the user wrote a sign."""
    arguments = ["tasks.click.weight=2", "+tasks.wishlist={kind: binary, label: wishlist}", "seed=1",
                 "++tasks.cart.kind=binary", "-m"]  # fmt: skip
    assert check_overrides("train", arguments) == [
        "++tasks.click.weight=2", "++tasks.wishlist={kind: binary, label: wishlist}", "seed=1",
        "++tasks.cart.kind=binary", "-m",
    ]  # fmt: skip


NETWORK = """
class Net:
    def __init__(self, query_dim, candidate_dim, tasks, width: int = 8, depth: int = 2): ...

class TooFew:
    def __init__(self, query_dim): ...

class AnyName:
    def __init__(self, query_dim, candidate_dim, tasks, **settings): ...
"""
OWN_CONFIGS = {
    "ranker/mine": "defaults: [{train: default}, _self_]\n"
    "model: {leaf_dim: 8, brand_dim: 4, attribute_dim: 4}\n"
    "multitask: {_target_: own_networks.Net, width: 4}\n",
    "ranker/any": "defaults: [mine, _self_]\nmultitask: {_target_: own_networks.AnyName, size: 4}\n",
    "ranker/few": "defaults: [mine, _self_]\nmultitask: {_target_: own_networks.TooFew}\n",
    "ranker/typo": "defaults: [mine, _self_]\nmultitask: {widht: 3}\n",
    "ranker/key": "defaults: [mine, _self_]\ntrain: {epoch: 3}\n",
    "tasks/wishlist": "defaults: [default, _self_]\nwishlist: {kind: binary, label: wishlist}\n",
    "tasks/typo": "defaults: [default, _self_]\nwishlist: {kind: binary, labl: wishlist}\n",
    "experiment/mine": "# @package _global_\ndefaults: [{override /ranker: mine}]\n"
    "ranker: {multitask: {depth: 3}}\ntasks: {click: {weight: 2.0}}\n",
    "experiment/typo": "# @package _global_\nranker: {multitask: {expert: 3}}\n",
}


@pytest.fixture
def own_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The argument that names a folder of a user's own configs, whose classes can be imported."""
    for name, text in OWN_CONFIGS.items():
        file = tmp_path / "my_configs" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "own_networks.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    return f"--config-dir={tmp_path / 'my_configs'}"


def test_configs_of_the_user_stand_beside_the_shipped_ones(own_configs: str) -> None:
    for arguments in (
        ["ranker=mine", "ranker.multitask.width=3", "query=mean"],
        ["ranker=any", "ranker.multitask.size=3"],
        ["experiment=mine", "tasks=wishlist", "tasks.wishlist.kind=binary"],
        ["experiment=[quick,mine,fast_dev_run]", "tasks=wishlist"],
    ):
        assert check_overrides("train", [own_configs, *arguments]) == [own_configs, *arguments]
    added = check_overrides("train", [own_configs, "ranker=mine", "ranker.multitask.depth=3"])
    assert added[-1] == "++ranker.multitask.depth=3"
    flag, _, folder = own_configs.partition("=")
    check_overrides("retrain", [flag, folder, "experiment=mine"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("ranker=min", "Did you mean mine"),
        ("ranker=typo", "ranker=typo sets ranker.multitask.widht: Net takes no widht. Did you mean width"),
        ("ranker=few", r"TooFew takes \(query_dim\): its first parameters must be query_dim, candidate_dim"),
        ("ranker=key", "ranker=key sets ranker.train.epoch: no such key. Did you mean ranker.train.epochs"),
        ("tasks=typo", "tasks=typo sets tasks.wishlist.labl: unknown field of a task. Did you mean label"),
        ("experiment=typo", "experiment=typo sets ranker.multitask.expert: MMoE takes no expert"),
        ("experiment=[debug,typo]", r"experiment=\[debug,typo\] sets ranker.multitask.expert"),
        ("experiment=[debug,min]", "experiment=min: unknown choice of experiment. Did you mean mine"),
        ("query=mine", "Did you mean mean"),
    ],
)
def test_wrong_configs_of_the_user_are_refused(own_configs: str, argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_overrides("train", [own_configs, argument])


def test_a_config_folder_that_cannot_be_read_as_meant_is_refused(own_configs: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        check_overrides("train", ["--config-dir", str(tmp_path / "nowhere")])
    (tmp_path / "my_configs" / "ranker" / "mmoe.yaml").write_text("model: {}\n")
    with pytest.raises(ConfigError, match="name of a shipped config"):
        check_overrides("train", [own_configs])


def test_an_experiment_cannot_bring_keys_of_its_own(tmp_path, monkeypatch) -> None:
    import shutil

    shutil.copytree(CONFIG_DIR, tmp_path / "configs")
    (tmp_path / "configs" / "experiment" / "typo.yaml").write_text(
        "# @package _global_\nretrieval: {train: {epoch: 1}}\n"
    )
    monkeypatch.setattr("training.config_files.CONFIG_DIR", tmp_path / "configs")
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
