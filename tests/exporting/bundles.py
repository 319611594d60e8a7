"""A small complete bundle: a synthetic shop, prepared, with towers and ranker at their initial weights."""

import json
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from data.prepare import prepare
from exporting.export import export
from serving.storage.bundle import CHECKSUM_PLACEHOLDER, manifest_checksum, sha256
from tests.data.shop import add_item_features, write_shop
from training.build_ranker import build_ranker
from training.build_two_tower import build_two_tower
from training.config_files import CONFIG_DIR
from training.prepared_data import open_prepared, training_prices
from training.retrieval import encode_items
from training.run_files import save_run_config
from training.stage_folders import write_stage_manifest


def load_config(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def make_run(folder: Path, seed: int = 0, events: bool = True, item_features: bool = False) -> Path:
    """A run folder as `train.py` writes it, without the training.

    With `item_features` the items have attributes and vectors (tests/data/shop.py).
    """
    root = write_shop(folder / "shop", users=40, items=80, days=90, events=events, seed=seed)
    if item_features:
        add_item_features(root)
    return make_run_of_shop(folder, root, seed=seed)


def make_run_of_shop(folder: Path, shop: Path, *overrides: str, seed: int = 0) -> Path:
    """A run folder below `folder` on the tables in `shop`, without the training."""
    cfg = load_config(
        "train", "data=tables", f"data.root={shop}", "prepare.memory_limit=1GB", "prepare.threads=2",
        f"paths.prepared={folder / 'prepared'}", f"paths.runs={folder / 'runs'}", "retrieval.model.dim=16",
        *overrides,
    )  # fmt: skip
    prepared = open_prepared(prepare(cfg))
    torch.manual_seed(seed)
    towers, ranker = (
        build_two_tower(cfg, prepared.table_sizes).eval(),
        build_ranker(cfg, prepared.table_sizes).eval(),
    )
    # Scores that differ from item to item, as trained ones do.
    with torch.no_grad():
        for tower in ranker.multitask.towers:
            tower[2].weight.mul_(6)
    retrieval, run = folder / "runs" / "retrieval-0", folder / "runs" / "ranker-0"
    retrieval.mkdir(parents=True)
    run.mkdir()
    torch.save(towers.state_dict(), retrieval / "weights.pt")
    torch.save(
        encode_items(towers, prepared.catalog, prepared.text, training_prices(prepared)),
        retrieval / "vectors.pt",
    )
    torch.save(ranker.state_dict(), run / "weights.pt")
    save_run_config(cfg, run)
    write_stage_manifest(retrieval, {"metrics": {}, "prepared": str(prepared.folder), "mlflow_run_id": ""})
    manifest = {
        "prepared": str(prepared.folder),
        "retrieval": str(retrieval),
        "candidates": "",
        "mlflow_run_id": "",
    }
    write_stage_manifest(run, {**manifest, "metrics": {"val_loss": 1.0}, "recall": {"test": 0.5}})
    return run


def export_config(run: Path, bundle: Path, *overrides: str) -> DictConfig:
    return load_config(
        "export",
        f"run={run}",
        f"bundle.dir={bundle}",
        "bundle.force=true",
        "verify.golden=5",
        "verify.checkouts=30",
        "bundle.spare_items=0",  # tests count the rows; those of live items set another number
        *overrides,
    )


def make_bundle(run: Path, bundle: Path, *overrides: str) -> Path:
    """Export a run; returns the version folder, whose parent is the bundle root."""
    return export(export_config(run, bundle, *overrides))


def reseal(folder: Path, **changes: object) -> None:
    """Update the hashes after a file was replaced, so that only its content can be refused."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes | {"checksum": CHECKSUM_PLACEHOLDER}
    manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    raw = json.dumps(manifest)
    path.write_text(raw.replace(CHECKSUM_PLACEHOLDER, manifest_checksum(raw.encode())))
