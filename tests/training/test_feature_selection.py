"""`features.drop` and `features.blocks`: settings of the ranker, refused before the first stage."""

from pathlib import Path

import pytest
from omegaconf import DictConfig

from data.prepare import prepared_key
from tests.data.shop import write_shop
from tests.exporting.bundles import load_config
from tests.training.test_config import SIZES
from training.build_ranker import build_ranker, feature_selection
from training.config import ConfigError
from training.pipeline import train_models


def config(*overrides: str) -> DictConfig:
    return load_config("train", "data=tables", *overrides)


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("features.drop=[item_due]", "item_due"),
        ("features.drop=item_due", "item_due"),
        ("features.drop=[item_du*]", "item_due"),
        ("features.drop=[views.*]", "clicks"),
        ("features.blocks=[item,user,sources]", "clicks"),
    ],
)
def test_left_out_features_are_no_input_of_the_ranker(override: str, name: str) -> None:
    every_name = build_ranker(config(), SIZES).interactions.feature_names
    ranker = build_ranker(config(override), SIZES)
    names = ranker.interactions.feature_names
    assert name in set(every_name) - set(names)
    assert ranker.normalize.num_features == len(names)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("features.drop=[source_eas]", "Did you mean source_ease"),
        ("features.blocks=[users]", "Did you mean user"),
        ("features.blocks=[content]", "leave no feature"),  # of a shop whose items have no vectors
    ],
)
def test_wrong_names_are_config_errors(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_ranker(config(override), SIZES)


def test_a_wrong_name_is_refused_before_the_data_is_read(tmp_path: Path) -> None:
    cfg = config("features.drop=[item_du]", f"data.root={tmp_path / 'missing'}", f"paths.runs={tmp_path}")
    with pytest.raises(ConfigError, match="Did you mean item_due"):
        train_models(cfg)


def test_the_prepared_folder_does_not_depend_on_the_selection(tmp_path: Path) -> None:
    root = write_shop(tmp_path, users=10, days=20)
    overrides = (f"data.root={root}", "features.drop=[item_due]", "features.blocks=[item]")
    assert prepared_key(config(*overrides)) == prepared_key(config(overrides[0]))
    assert str(feature_selection(config(*overrides))) != str(feature_selection(config(overrides[0])))
