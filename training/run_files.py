"""Files of a run folder: its resolved config and its weights, whatever release wrote them."""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from training.earlier_names import current_parameter, rename_config

CONFIG_FILE, WEIGHTS_FILE, VECTORS_FILE = "config.yaml", "weights.pt", "vectors.pt"


def save_run_config(cfg: DictConfig, folder: Path) -> None:
    """Write the resolved config next to the weights that it made."""
    OmegaConf.save(cfg, folder / CONFIG_FILE, resolve=True)


def load_run_config(folder: Path) -> DictConfig:
    """The config of a run, with today's names. Raises FileNotFoundError."""
    saved = OmegaConf.load(folder / CONFIG_FILE)
    return OmegaConf.create(rename_config(OmegaConf.to_container(saved)))


def load_run_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of a run, with today's names. Raises FileNotFoundError."""
    weights: dict[str, Tensor] = torch.load(folder / WEIGHTS_FILE)
    return {current_parameter(name): tensor for name, tensor in weights.items()}


def relative_path(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, so that a project can be moved with its runs."""
    return os.path.relpath(path, folder)
