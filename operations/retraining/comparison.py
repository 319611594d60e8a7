"""Compares challenger and champion on the same window of checkouts."""

from pathlib import Path
from typing import NamedTuple

from hydra.errors import InstantiationException
from omegaconf import DictConfig

from operations.retraining.bundle_eval import evaluate_bundle
from operations.retraining.champion import Champion
from operations.retraining.gates import Gate, evaluate_gates
from operations.retraining.offline_eval import RunMetrics, evaluate_run, popularity_ndcg
from serving.storage.bundle import read_manifest
from training.catalog_refresh import refresh_run
from training.trained_run import Run, open_run

REFRESHED = "its weights on today's log"
# Errors of a run that today's code cannot rebuild: missing files and keys, other shapes, other classes.
REBUILD_ERRORS = (
    FileNotFoundError, LookupError, AttributeError, TypeError, ValueError, RuntimeError, ImportError,
    InstantiationException,
)  # fmt: skip


class Comparison(NamedTuple):
    """The gates of a challenger, and a description of the champion's evaluation."""

    gates: list[Gate]
    champion_evaluation: str | None  # None without a champion


def compare(cfg: DictConfig, folder: Path, bundle: Path, champion: Champion | None) -> Comparison:
    """Evaluate challenger and champion in the same window, and print the gates.

    The challenger is a run and its bundle.
    """
    challenger = open_run(folder)
    metrics = evaluate_run(challenger)
    champion_metrics, evaluation = None, None
    if champion is not None:
        champion_metrics, evaluation = evaluate_champion(champion, cfg, challenger)
        print(f"champion {champion.version}: {evaluation}", flush=True)
    gates = evaluate_gates(
        metrics, champion_metrics, popularity_ndcg(challenger), read_manifest(bundle), cfg.retrain.gates
    )
    for gate in gates:
        print(f"  {'pass' if gate.passed else 'FAIL'}  {gate.name}: {gate.detail}", flush=True)
    return Comparison(gates, evaluation)


def evaluate_champion(champion: Champion, cfg: DictConfig, challenger: Run) -> tuple[RunMetrics, str]:
    """The champion's metrics in the challenger's window, and a description of how it was evaluated.

    The champion's weights predict with today's prices, popularity and neighbours. If today's code cannot
    rebuild the run, the modules of the champion's bundle predict instead.
    """
    if champion.training is None:
        reason = "its run cannot be read"
    else:
        try:
            refreshed = open_run(refresh_run(champion.training.folder, cfg, challenger.prepared))
        except REBUILD_ERRORS as error:
            reason = f"today's code cannot rebuild its run ({type(error).__name__}: {error})"
        else:
            return evaluate_run(refreshed), REFRESHED
    return evaluate_bundle(champion.folder, challenger), f"evaluated from its bundle, because {reason}"
