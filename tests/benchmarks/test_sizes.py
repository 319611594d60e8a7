"""The dial of the models' size."""

from itertools import pairwise

import pytest
from hydra import compose, initialize_config_dir

from benchmarks.sizes import COLUMNS, SIZES, SizesOptions, size_config, sizes_table
from training.config_files import CONFIG_DIR
from training.errors import ConfigError

WIDTHS = (
    "retrieval.model.dim", "retrieval.model.item.hidden", "retrieval.model.query.hidden",
    "retrieval.sources.ann", "ranker.multitask.experts", "ranker.multitask.tower",
)  # fmt: skip


def select(cfg: object, key: str) -> float:
    for name in key.split("."):
        cfg = cfg[name]  # type: ignore[index]
    assert isinstance(cfg, int)
    return cfg


def test_every_size_is_larger_than_the_one_before_and_m_is_the_default() -> None:
    assert set(SIZES) == {file.stem for file in (CONFIG_DIR / "size").glob("*.yaml")}
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        configs, default = [compose("train", [f"size={size}"]) for size in SIZES], compose("train")
    for small, large in pairwise(configs):
        for key in WIDTHS:
            assert select(small, key) < select(large, key), key
        assert len(small.ranker.multitask.hidden) == len(large.ranker.multitask.hidden)
    assert [select(default, key) for key in WIDTHS] == [select(configs[2], key) for key in WIDTHS]


@pytest.mark.parametrize("ranker", ["shared_bottom", "esmm", "cascade", "ple"])
def test_every_network_follows_the_dial(ranker: str) -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        small, large = (compose("train", [f"size={size}", f"ranker={ranker}"]) for size in ("xs", "l"))
    assert small.ranker.multitask.hidden[0] < large.ranker.multitask.hidden[0]
    assert small.ranker.multitask.tower < large.ranker.multitask.tower


def test_a_width_that_is_set_alone_wins() -> None:
    assert size_config("l", ["retrieval.model.dim=32"]).retrieval.model.dim == 32
    with pytest.raises(ConfigError, match="expected a int"):
        size_config("m", ["retrieval.model.dim=wide"])
    with pytest.raises(ConfigError, match="expected 1 to 4096"):
        size_config("m", ["size.dim=0"])
    with pytest.raises(ConfigError, match="size=xxl: unknown choice of size"):
        size_config("xxl", [])


def test_overrides_are_no_sizes() -> None:
    options = SizesOptions(words=("s", "seed=1"))
    assert (options.sizes, options.overrides) == (["s"], ["seed=1"])
    assert SizesOptions().sizes == [*SIZES]
    heading, rule, line = sizes_table([dict.fromkeys(COLUMNS, 0.5)]).split("\n")
    assert heading.count("|") == rule.count("|") == line.count("|")
