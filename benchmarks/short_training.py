"""Makes a bundle for a benchmark's shop with a minute of training.

The bundle has the latency of a real one, but not its quality.
"""

from pathlib import Path

from benchmarks.commands import run_script

SHORT_TRAINING = ("retrieval.train.epochs=1", "ranker.train.epochs=1", "ranker.train.max_checkouts=3000")


def train_and_export(shop: Path, folder: Path) -> Path:
    """Train on the tables of `shop`, export to `folder/bundle`, and return this bundle root."""
    bundle = folder / "bundle"
    paths = [f"paths.prepared={folder / 'prepared'}", f"paths.runs={folder / 'runs'}"]
    tracking = f"mlflow.tracking_uri=sqlite:///{folder / 'mlflow.db'}"
    run_script("train.py", "data=tables", f"data.root={shop}", *paths, tracking, *SHORT_TRAINING)
    run_script("export.py", f"run={folder / 'runs' / 'latest'}", f"bundle.dir={bundle}", tracking)
    return bundle
