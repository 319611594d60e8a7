"""Variants of the multi-task benchmark, and its tables."""

import pytest

from benchmarks.multitask import MultitaskOptions, variant_config
from benchmarks.multitask_truth import COLUMNS, truth_table
from training.errors import ConfigError


def test_a_variant_is_a_network_and_perhaps_a_loss_of_the_conversion() -> None:
    cfg = variant_config("esmm:escm2_dr", ["experiment=simulated", "seed=3"])
    assert cfg.ranker.multitask._target_.endswith("ESMM")
    assert (cfg.tasks.purchase.loss, cfg.seed, cfg.data.name) == ("escm2_dr", 3, "simulated")
    cfg = variant_config("mmoe:escm2_ips:0.5", [])
    assert (cfg.tasks.purchase.loss, cfg.tasks.purchase.counterfactual_weight) == ("escm2_ips", 0.5)
    assert variant_config("cascade", []).tasks.purchase.get("loss") is None
    with pytest.raises(ConfigError, match="Did you mean escm2_dr"):
        variant_config("esmm:escm2_rd", [])


def test_every_network_and_loss_is_compared_by_default_and_overrides_are_no_variants() -> None:
    options = MultitaskOptions(words=("seed=1", "data=simulated"), seeds=(0, 2))
    assert {"cascade", "esmm", "esmm:escm2_ips", "esmm:escm2_dr", "mmoe"} <= set(options.variants)
    assert options.overrides == ["seed=1", "data=simulated"]
    assert options.seed_overrides == [["seed=0"], ["seed=2"]]
    assert MultitaskOptions(words=("mmoe",)).variants == ["mmoe"]


def test_cells_are_means_over_seeds_with_the_largest_distance() -> None:
    keys = COLUMNS.values()
    rows = [{"variant": "esmm"} | dict.fromkeys(keys, value) for value in (0.1, 0.2, 0.6)]
    heading, rule, line = truth_table(rows).split("\n")
    assert heading.replace("\\|", "").count("|") == rule.count("|") == line.count("|")
    assert line.startswith("| esmm | 0.3000 ± 0.3000 |")
    assert "±" not in truth_table(rows[:1])
