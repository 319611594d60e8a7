"""One retraining: today's log → a challenger → gates → published, or kept back.

    log ─ nothing new? ─────────────────────────────────────────────▶ kept
           ╰▶ prepare ─▶ full, or from the champion's weights ─ train ─▶ challenger ─ export ─╮
             champion's weights on today's log ─ evaluate ◀─ same window ─▶ evaluate ◀────────┤
                                                    ╰─────────── gates ──────────╯            │
                                      kept, with the reason ◀─ fail ─┴─ pass ─▶ bundle/current ╯

Every step writes its result atomically and reuses it when it runs again. A retraining that is killed leaves
the champion serving, and the next one resumes it. `decisions.jsonl` in the bundle's root records every
decision with its reason.
"""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from data.prepare import last_order_time, prepared_key
from exporting.export import export
from models.schema import SECONDS_PER_DAY
from operations.retraining import registry
from operations.retraining.gates import Gate, evaluate_gates, gate_summary
from operations.retraining.offline_eval import evaluate_run, popularity_ndcg
from serving.files import write_atomically
from serving.storage.bundle import BundleError, read_manifest, version_folder
from serving.storage.versions import CHALLENGER_FOLDER, set_current_version
from training.catalog_refresh import refresh_run
from training.config import CONFIG_DIR, ConfigError
from training.pipeline import train_models
from training.run_files import load_run_config
from training.stage_folders import read_stage_manifest
from training.trained_run import open_run

DECISIONS_FILE = "decisions.jsonl"


class Champion(NamedTuple):
    """The bundle that serves."""

    version: str
    run: Path
    prepared: str  # name of the prepared folder of its training
    data_since: str | None  # `data.since` of that folder
    full_training_end: int  # Unix seconds, the end of the log at its last full training


class Decision(NamedTuple):
    """The outcome of a retraining."""

    published_version: str | None  # None if the champion keeps serving
    reason: str


def retrain(cfg: DictConfig) -> Decision:
    """Retrain on today's log and publish the challenger if it passes the gates. See configs/retrain.yaml.

    Raises DataError, ConfigError and ExportError as training and export do.
    """
    root = Path(cfg.bundle.dir)
    root.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(root / ".retrain.lock").acquire(blocking=False)
    except Timeout:
        return Decision(None, "another retraining of this bundle is under way")
    with lock:
        return _retrain(cfg, root)


def _retrain(cfg: DictConfig, root: Path) -> Decision:
    champion = load_champion(root, cfg)
    if champion is not None:
        registry.set_champion_alias(cfg, champion.version)  # a kill after publishing may have prevented it
        if trained_on_current_log(champion, cfg):
            return Decision(None, f"{champion.version} has learned from this log already")
    mode, training_cfg = choose_mode(cfg, champion)
    print(f"retraining: {mode}", flush=True)
    folder = train_models(training_cfg)
    if previous := previous_decision(root, folder.name):
        return Decision(None, f"{folder.name} was evaluated on {previous['at']}: {previous['reason']}")
    challenger = export(challenger_export_config(cfg, folder, root / CHALLENGER_FOLDER))
    gates = _compare(cfg, folder, challenger, champion)
    is_passed, reason = all(gate.passed for gate in gates), gate_summary(gates)
    # Before it serves: a kill must not leave a champion that the registry lacks.
    registry.register_challenger(cfg, folder, challenger.name, reason)
    if is_passed:
        promote_challenger(challenger, root)
    record = {
        "version": challenger.name,
        "run": folder.name,
        "mode": mode,
        "published": is_passed,
        "reason": reason,
        "champion": champion and champion.version,
        "gates": [gate._asdict() for gate in gates],
    }
    append_decision(root, record)
    if is_passed:
        registry.set_champion_alias(cfg, challenger.name)
    return Decision(challenger.name if is_passed else None, reason)


def _compare(cfg: DictConfig, folder: Path, bundle: Path, champion: Champion | None) -> list[Gate]:
    """Evaluate the challenger and the champion in the same window; print and return the gates."""
    challenger = open_run(folder)
    metrics = evaluate_run(challenger)
    champion_metrics = None
    if champion is not None:
        champion_metrics = evaluate_run(open_run(refresh_run(champion.run, cfg, challenger.prepared)))
    gates = evaluate_gates(
        metrics, champion_metrics, popularity_ndcg(challenger), read_manifest(bundle), cfg.retrain.gates
    )
    for gate in gates:
        print(f"  {'pass' if gate.passed else 'FAIL'}  {gate.name}: {gate.detail}", flush=True)
    return gates


def load_champion(root: Path, cfg: DictConfig) -> Champion | None:
    """The bundle that `current` names; None if there is none, or it or its run cannot be read."""
    try:
        manifest = read_manifest(version_folder(root))
    except BundleError:
        return None
    folder = Path(cfg.paths.runs) / manifest["run"]["folder"]
    try:
        prepared = (folder / read_stage_manifest(folder)["prepared"]).resolve()
        since = _read_meta(prepared)["config"]["data"].get("since")
        return Champion(manifest["version"], folder, prepared.name, since, _full_training_end(folder))
    except FileNotFoundError:
        return None


def _full_training_end(folder: Path) -> int:
    """The end of the log of the full training from which a chain of warm starts began."""
    while (warm_run := load_run_config(folder).warm.run) is not None:
        folder = Path(warm_run)
    return int(_read_meta(folder / read_stage_manifest(folder)["prepared"])["window"]["end"])


def _read_meta(prepared: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((prepared / "meta.json").read_text())
    return meta


def trained_on_current_log(champion: Champion, cfg: DictConfig) -> bool:
    """Whether the champion was trained on today's log, prepared with its `data.since`."""
    champion_cfg = cfg.copy()
    champion_cfg.data.since = champion.data_since
    return prepared_key(champion_cfg) == champion.prepared


def choose_mode(cfg: DictConfig, champion: Champion | None) -> tuple[str, DictConfig]:
    """The mode, "full" or "incremental", and the config of its training.

    `retrain.mode` decides; "auto" decides by the age of the last full training. Raises ConfigError for an
    unknown mode, and for an incremental training without a champion.
    """
    mode = cfg.retrain.mode
    if mode not in ("auto", "full", "incremental"):
        raise ConfigError(f"retrain.mode={mode}: expected auto, full or incremental")
    if mode == "incremental" and champion is None:
        raise ConfigError(f"retrain.mode=incremental: {cfg.bundle.dir} has no bundle whose run is there")
    if mode == "full" or champion is None:
        return "full", cfg
    full_every = cfg.retrain.full_every * SECONDS_PER_DAY
    if mode == "auto" and last_order_time(cfg) - champion.full_training_end >= full_every:
        return "full", cfg
    overrides = OmegaConf.load(CONFIG_DIR / "experiment" / "incremental.yaml")
    incremental = OmegaConf.merge(cfg, overrides, {"warm": {"run": str(champion.run)}})
    assert isinstance(incremental, DictConfig)
    return "incremental", incremental


def challenger_export_config(cfg: DictConfig, folder: Path, root: Path) -> DictConfig:
    """The config of export.yaml for a challenger in `root`."""
    root.mkdir(exist_ok=True)
    groups = {name: OmegaConf.to_container(cfg[name]) for name in ("index", "bundle", "verify", "mlflow")}
    export_cfg = OmegaConf.create({**groups, "run": str(folder)})
    export_cfg.bundle.dir = str(root)
    return export_cfg


def promote_challenger(challenger: Path, root: Path) -> None:
    """Add a challenger to the versions in `root` and let `current` name it, each in one step.

    Its files are linked, not moved, so after a kill the next retraining still finds the challenger.
    """
    version = root / challenger.name
    if not version.exists():
        partial = root / f".publishing-{challenger.name}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(challenger, partial, copy_function=os.link)
        os.replace(partial, version)
    store = challenger.parent / "store.arrow"
    if store.exists():
        with write_atomically(root / store.name) as partial_store:
            partial_store.unlink(missing_ok=True)
            os.link(store, partial_store)
    set_current_version(root, challenger.name)


def append_decision(root: Path, record: dict[str, Any]) -> None:
    """Append a record to the decisions."""
    with (root / DECISIONS_FILE).open("a") as file:
        file.write(json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **record}) + "\n")


def previous_decision(root: Path, run_name: str) -> dict[str, Any] | None:
    """The decision on a run; None without one, and for one to publish, which a kill may have prevented."""
    file = root / DECISIONS_FILE
    lines = file.read_text().splitlines() if file.is_file() else []
    for line in reversed(lines):
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # a kill truncated this line
        if record["run"] == run_name:
            return None if record["published"] else record
    return None
