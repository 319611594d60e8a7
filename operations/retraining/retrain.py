"""One retraining: today's log → a challenger → gates → published, or kept back.

    log ─ nothing new? ─────────────────────────────────────────────▶ kept
           ╰▶ prepare ─▶ full, or from the champion's weights ─ train ─▶ challenger ─ export ─╮
             champion's weights on today's log ─ judge ◀── the same window ──▶ judge ◀─────────┤
                                                 ╰───────────── gates ──────────╯              │
                                      kept, with the reason ◀─ fail ─┴─ pass ─▶ bundle/current ╯

Every step leaves its result in one move and finds it again, so a retraining that is killed anywhere leaves
the champion serving, and the next one goes on from there. `decisions.jsonl` in the bundle's root says what
was decided, and why.
"""

import fcntl
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from data.prepare import last_order_time, prepared_key
from exporting.export import export
from operations.retraining import registry
from operations.retraining.gates import evaluate_gates, gate_summary
from operations.retraining.offline_eval import evaluate_run, popularity_ndcg
from serving.storage.bundle import BundleError, read_manifest, version_folder
from serving.storage.versions import CHALLENGER_FOLDER, set_current_version
from training.catalog_refresh import refresh_run
from training.config import CONFIG_DIR, ConfigError
from training.pipeline import train_models
from training.stage_folders import read_stage_manifest
from training.trained_run import open_run

DAY = 86_400
DECISIONS_FILE = "decisions.jsonl"


class Champion(NamedTuple):
    """What serves now."""

    version: str
    run: Path
    prepared: str  # name of the folder it learned from
    data_since: str | None  # `data.since` of that folder
    full_training_end: int  # Unix seconds, the end of the log at its last full training


class Decision(NamedTuple):
    """What became of a retraining."""

    published_version: str | None  # the version that serves now, if it is a new one
    reason: str


def retrain(cfg: DictConfig) -> Decision:
    """Retrain on today's log and publish what passes the gates. See configs/retrain.yaml.

    Raises DataError, ConfigError and ExportError as training and export do.
    """
    root = Path(cfg.bundle.dir)
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".retrain.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Decision(None, "another retraining of this bundle is under way")
        return _retrain(cfg, root)


def _retrain(cfg: DictConfig, root: Path) -> Decision:
    champion = load_champion(root, cfg)
    if champion is not None:
        registry.set_champion_alias(cfg, champion.version)  # a kill may have come between publishing and this
        if trained_on_current_log(champion, cfg):
            return Decision(None, f"{champion.version} has learned from this log already")
    mode, settings = choose_mode(cfg, champion)
    print(f"retraining: {mode}", flush=True)
    folder = train_models(settings)
    if known := previous_decision(root, folder.name):
        return Decision(None, f"{folder.name} was judged on {known['at']}: {known['reason']}")
    made = export(challenger_export_config(cfg, folder, root / CHALLENGER_FOLDER))
    challenger = open_run(folder)
    mine = evaluate_run(challenger)
    theirs = evaluate_run(open_run(refresh_run(champion.run, cfg, challenger.prepared))) if champion else None
    found = evaluate_gates(mine, theirs, popularity_ndcg(challenger), read_manifest(made), cfg.retrain.gates)
    for gate in found:
        print(f"  {'pass' if gate.passed else 'FAIL'}  {gate.name}: {gate.detail}", flush=True)
    passed, reason = all(gate.passed for gate in found), gate_summary(found)
    registry.register_challenger(
        cfg, folder, made.name, reason
    )  # before it serves: a kill leaves no unknown champion
    if passed:
        promote_challenger(made, root)
    line = {"version": made.name, "run": folder.name, "mode": mode, "published": passed, "reason": reason}
    line["champion"] = champion and champion.version
    append_decision(root, line | {"gates": [gate._asdict() for gate in found]})
    if passed:
        registry.set_champion_alias(cfg, made.name)
    return Decision(made.name if passed else None, reason)


def load_champion(root: Path, cfg: DictConfig) -> Champion | None:
    """What `current` names, if it can be read and its run is still there; None before the first bundle."""
    try:
        about = read_manifest(version_folder(root))
    except BundleError:
        return None
    folder = Path(cfg.paths.runs) / about["run"]["folder"]
    try:
        prepared = (folder / read_stage_manifest(folder)["prepared"]).resolve()
        since = _read_meta(prepared)["config"]["data"].get("since")
        return Champion(about["version"], folder, prepared.name, since, _full_training_end(folder))
    except FileNotFoundError:
        return None


def _full_training_end(folder: Path) -> int:
    """The end of the log of the full training that a chain of warm starts goes back to."""
    while (before := OmegaConf.load(folder / "config.yaml").warm.run) is not None:
        folder = Path(before)
    return int(_read_meta(folder / read_stage_manifest(folder)["prepared"])["window"]["end"])


def _read_meta(prepared: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((prepared / "meta.json").read_text())
    return found


def trained_on_current_log(champion: Champion, cfg: DictConfig) -> bool:
    """Whether today's log, prepared as the champion's was, is what the champion learned from."""
    today = cfg.copy()
    today.data.since = champion.data_since
    return prepared_key(today) == champion.prepared


def choose_mode(cfg: DictConfig, champion: Champion | None) -> tuple[str, DictConfig]:
    """full or incremental, as `retrain.mode` and the age of the last full training say, and the settings of
    that training.

    Raises ConfigError for another word, and for an incremental training without a champion.
    """
    mode = cfg.retrain.mode
    if mode not in ("auto", "full", "incremental"):
        raise ConfigError(f"retrain.mode={mode}: expected auto, full or incremental")
    if mode == "incremental" and champion is None:
        raise ConfigError(f"retrain.mode=incremental: {cfg.bundle.dir} has no bundle whose run is there")
    if mode == "full" or champion is None:
        return "full", cfg
    smaller = OmegaConf.load(CONFIG_DIR / "experiment" / "incremental.yaml")
    warm = OmegaConf.merge(cfg, smaller, {"warm": {"run": str(champion.run)}})
    assert isinstance(warm, DictConfig)
    if mode == "auto" and last_order_time(cfg) - champion.full_training_end >= cfg.retrain.full_every * DAY:
        return "full", cfg
    return "incremental", warm


def challenger_export_config(cfg: DictConfig, folder: Path, root: Path) -> DictConfig:
    """The settings of export.yaml for a challenger in `root`."""
    root.mkdir(exist_ok=True)
    names = {name: OmegaConf.to_container(cfg[name]) for name in ("index", "bundle", "verify", "mlflow")}
    found = OmegaConf.create({**names, "run": str(folder)})
    found.bundle.dir = str(root)
    return found


def promote_challenger(made: Path, root: Path) -> None:
    """Put a challenger beside the other versions and let `current` name it; servers see all or nothing.

    Its files are linked, not moved: a kill in between leaves the challenger for the next retraining.
    """
    if not (root / made.name).exists():
        partial = root / f".publishing-{made.name}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(made, partial, copy_function=os.link)
        os.replace(partial, root / made.name)
    store = made.parent / "store.arrow"
    if store.exists():
        beside = root / ".store.arrow"
        beside.unlink(missing_ok=True)
        os.link(store, beside)
        os.replace(beside, root / "store.arrow")
    set_current_version(root, made.name)


def append_decision(root: Path, line: dict[str, Any]) -> None:
    """Add a line to the decisions."""
    with (root / DECISIONS_FILE).open("a") as file:
        file.write(json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **line}) + "\n")


def previous_decision(root: Path, run_name: str) -> dict[str, Any] | None:
    """What was decided of a run before; None if nothing was, or if it was to publish and that did not end."""
    file = root / DECISIONS_FILE
    lines = file.read_text().splitlines() if file.is_file() else []
    for line in reversed(lines):
        try:
            before = json.loads(line)
        except ValueError:
            continue  # a line that a kill cut off
        if before["run"] == run_name:
            return None if before["published"] else before
    return None
