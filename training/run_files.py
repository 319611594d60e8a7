"""Files of a run folder: its resolved config and its weights."""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from serving.files import write_atomically
from training.config_keys import without_secrets
from training.earlier_names import current_parameter

CONFIG_FILE, WEIGHTS_FILE, VECTORS_FILE = "config.yaml", "weights.pt", "vectors.pt"
CONFIG_VERSION_KEY = "config_version"
CONFIG_VERSION = 5  # of configs that this release saves; training/config_versions.py reads earlier versions

READOUT_WEIGHTS, LOG_LENGTH = "query_encoder.readout.bag_weights", "query_encoder.readout.log_length"


def save_run_config(cfg: DictConfig, folder: Path) -> None:
    """Write the resolved config, without secrets, and its version into the run folder."""
    versioned = OmegaConf.merge({CONFIG_VERSION_KEY: CONFIG_VERSION}, without_secrets(cfg))
    OmegaConf.save(versioned, folder / CONFIG_FILE, resolve=True)


def save_objective(cfg: DictConfig, folder: Path) -> None:
    """Copy the config's `slate`, which does not affect training, into a finished run's config."""
    saved = OmegaConf.load(folder / CONFIG_FILE)
    if OmegaConf.select(saved, "slate") != cfg.slate:
        saved.slate = cfg.slate
        with write_atomically(folder / CONFIG_FILE) as partial:
            OmegaConf.save(saved, partial)


def load_run_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of a run of any release, with current names. Raises FileNotFoundError."""
    weights: dict[str, Tensor] = torch.load(folder / WEIGHTS_FILE)
    weights = {current_parameter(name): tensor for name, tensor in weights.items()}
    if READOUT_WEIGHTS in weights:
        weights.setdefault(LOG_LENGTH, torch.tensor(0.0))  # query vectors had the length 1
    return weights


def relative_path(path: Path, folder: Path) -> str:
    """Makes `path` relative to `folder`, so that a project can be moved with its runs."""
    return os.path.relpath(path, folder)
