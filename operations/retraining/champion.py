"""The champion: the bundle that serves, and its training run."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from data.io.remote_roots import local_root
from data.prepare import prepared_key
from serving.storage.bundle import BundleError, read_manifest, version_folder
from serving.storage.paths import CURRENT
from training.config_versions import load_run_config
from training.errors import ConfigError
from training.stage_folders import read_stage_manifest


class TrainingRun(NamedTuple):
    """The run of a champion."""

    folder: Path
    prepared: str  # name of the prepared folder
    data_since: str | None  # `data.since` of that folder
    full_training_end: int  # Unix seconds, the end of the log at the last full training


class Champion(NamedTuple):
    """The bundle that serves."""

    version: str
    folder: Path
    training: TrainingRun | None  # None if the run is missing or cannot be read


def load_champion(root: Path, cfg: DictConfig) -> Champion | None:
    """Returns the bundle that `current` names.

    If the bundle is missing or cannot be read, prints the reason and returns None.
    """
    try:
        folder = version_folder(root)
        manifest = read_manifest(folder)
    except BundleError as error:
        if (root / CURRENT).is_symlink():
            print(f"the bundle that serves cannot be the champion: {error}", flush=True)
        return None
    run = local_root(cfg.paths.runs) / manifest["run"]["folder"]
    try:
        training = _read_training(run)
    except (FileNotFoundError, KeyError, ConfigError) as error:
        print(f"the run of {manifest['version']} cannot be read ({error}): its bundle is judged", flush=True)
        training = None
    return Champion(manifest["version"], folder, training)


def trained_on_current_log(training: TrainingRun, cfg: DictConfig) -> bool:
    """Whether a run was trained on today's log.

    The log is prepared with `data.since` of the config, or else with that of the run.
    """
    run_cfg = cfg.copy()
    if cfg.data.since is None:
        run_cfg.data.since = training.data_since
    return prepared_key(run_cfg) == training.prepared


def _read_training(run: Path) -> TrainingRun:
    prepared = (run / read_stage_manifest(run)["prepared"]).resolve()
    since = _read_meta(prepared)["config"]["data"].get("since")
    return TrainingRun(run, prepared.name, since, _full_training_end(run))


def _full_training_end(folder: Path) -> int:
    """Follows a chain of warm starts back to its full training, and returns the end of that log."""
    while (warm_run := load_run_config(folder).warm.run) is not None:
        folder = Path(warm_run)
    return int(_read_meta(folder / read_stage_manifest(folder)["prepared"])["window"]["end"])


def _read_meta(prepared: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((prepared / "meta.json").read_text())
    return meta
