"""One retraining: trains a challenger on today's log, checks its gates, and publishes or rejects it.

    log ─ nothing new? ─────────────────────────────────────────────▶ kept
           ╰▶ prepare ─▶ full, or from the champion's weights ─ train ─▶ challenger ─ export ─╮
             champion's weights on today's log ─ evaluate ◀─ same window ─▶ evaluate ◀────────┤
             (or its bundle, if they do not fit)
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

from exporting.export import export, open_root
from operations.retraining import registry
from operations.retraining.champion import load_champion, trained_on_current_log
from operations.retraining.comparison import compare
from operations.retraining.gates import gate_summary
from operations.retraining.training_mode import check_settings, plan_training
from serving.files import write_atomically
from serving.storage.bundle import read_manifest
from serving.storage.bundle_mirror import is_mirror, push_version
from serving.storage.versions import CHALLENGER_FOLDER, set_current_version
from training.pipeline import train_models

DECISIONS_FILE = "decisions.jsonl"


class Decision(NamedTuple):
    """The outcome of a retraining."""

    published_version: str | None  # None if the champion stays in service
    reason: str


def retrain(cfg: DictConfig) -> Decision:
    """Retrain on today's log and publish the challenger if it passes the gates. See configs/retrain.yaml.

    Raises DataError, ConfigError and ExportError as training and export do.
    """
    check_settings(cfg)
    root = open_root(cfg.bundle.dir)
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
        if champion.training is not None and trained_on_current_log(champion.training, cfg):
            return Decision(None, f"{champion.version} has learned from this log already")
    plan = plan_training(cfg, champion)
    print(f"retraining: {plan.mode}{plan.reason and f' ({plan.reason})'}", flush=True)
    folder = train_models(plan.cfg)
    if previous := previous_decision(root, folder.name):
        return Decision(None, f"{folder.name} was evaluated on {previous['at']}: {previous['reason']}")
    challenger = export(challenger_export_config(cfg, folder, root / CHALLENGER_FOLDER))
    comparison = compare(cfg, folder, challenger, champion)
    is_passed, reason = all(gate.passed for gate in comparison.gates), gate_summary(comparison.gates)
    # Before the challenger serves, so that a kill cannot leave a champion that the registry lacks.
    registry.register_challenger(cfg, folder, challenger.name, reason)
    if is_passed:
        promote_challenger(challenger, root)
    record = {
        "version": challenger.name,
        "run": folder.name,
        "mode": plan.mode,
        "mode_reason": plan.reason,
        "published": is_passed,
        "reason": reason,
        "champion": champion and champion.version,
        "champion_evaluation": comparison.champion_evaluation,
        "gates": [gate._asdict() for gate in comparison.gates],
        "recalibration": read_manifest(challenger)["recalibration"],
    }
    append_decision(root, record)
    if is_passed:
        registry.set_champion_alias(cfg, challenger.name)
    return Decision(challenger.name if is_passed else None, reason)


def challenger_export_config(cfg: DictConfig, folder: Path, root: Path) -> DictConfig:
    """The config of export.yaml for a challenger in `root`."""
    root.mkdir(exist_ok=True)
    groups = {name: OmegaConf.to_container(cfg[name]) for name in ("index", "bundle", "verify", "mlflow")}
    entries = {"run": str(folder), "sign": cfg.get("sign"), "live": cfg.get("live")}
    export_cfg = OmegaConf.create({**groups, **entries})
    export_cfg.bundle.dir = str(root)
    return export_cfg


def promote_challenger(challenger: Path, root: Path) -> None:
    """Add a challenger to the versions in `root` and point `current` at it, each in one step.

    For a bundle root at a URI, both steps happen remotely first. Files are linked, not moved, so after a kill
    the next retraining still finds the challenger.
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
    if is_mirror(root):
        push_version(root, challenger.name)
    set_current_version(root, challenger.name)


def append_decision(root: Path, record: dict[str, Any]) -> None:
    """Append a record to the decisions."""
    with (root / DECISIONS_FILE).open("a") as file:
        file.write(json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **record}) + "\n")


def previous_decision(root: Path, run_name: str) -> dict[str, Any] | None:
    """Returns the decision on a run; None if there is none.

    A decision to publish also gives None, because a kill may have prevented the publication.
    """
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
