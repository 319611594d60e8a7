"""The config of train.py, as a benchmark trains with it."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from training.config import CONFIG_DIR, check_overrides, check_values


def train_config(overrides: Sequence[str]) -> DictConfig:
    """The config of train.py with these overrides. Raises ConfigError for a wrong one."""
    checked = check_overrides("train", overrides)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=checked)
    check_values(cfg)
    return cfg
