"""Item lists of a run of train.py on public sequences.

The lists are those of the two towers alone, and those of the whole system.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.public_data import PublicSet, known_lines
from benchmarks.public_metrics import DEPTH, top_columns
from data.errors import DataError
from data.io.batches import read_batches
from evaluation.cold_start import open_towers, two_tower_scorer
from evaluation.jagged import (
    Array,
    RankedLists,
    find_sorted,
    mask_jagged,
    segment_ids,
    sort_descending,
    top_k,
)
from evaluation.objective import objective_ranking, open_objective
from evaluation.scoring import score_split
from training.prepared_data import PreparedData
from training.stage_folders import read_stage_manifest
from training.trained_run import open_run

TWO_TOWERS, WHOLE_SYSTEM = "Sextet, two towers", "Sextet, whole system"
BATCH_SIZE = 256


class RunRows:
    """The rows of a run's test split and catalog, as rows of a public set.

    Raises DataError for a run on other data.
    """

    def __init__(self, public: PublicSet, prepared: PreparedData) -> None:
        self.public = public
        self.examples = prepared.folder / "examples" / "test.parquet"
        items = pq.read_table(prepared.folder / "items.parquet", columns=["item_id"])
        examples = pq.read_table(self.examples, columns=["user_id", "n_prior_orders", "snapshot"])
        user_of = {user: row for row, user in enumerate(public.user_ids)}
        item_of = {item: row for row, item in enumerate(public.item_ids)}
        self.user = np.array([user_of.get(user, -1) for user in examples["user_id"].to_pylist()])  # [U]
        # [N+1], -1 for the unknown item
        self.item = np.array([item_of.get(item, -1) for item in items["item_id"].to_pylist()])
        self.snapshot = examples["snapshot"].to_numpy().astype(np.int64)  # [U]
        n_prior = examples["n_prior_orders"].to_numpy()
        is_same = len(self.user) == len(np.unique(self.user)) == len(public.user_ids)
        if not (is_same and (self.user >= 0).all() and (n_prior == public.n_orders[self.user] - 2).all()):
            raise DataError(
                f"{prepared.folder}: its test split is not the last checkout but one of every user of "
                f"{public.name}. Train with the settings that this command prints"
            )

    def excluded_items(self) -> tuple[Array, Array]:
        """The items that lists may not contain, as test rows [X], ascending, and catalog rows [X]."""
        if not self.public.is_leave_one_out:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        known = known_lines(self.public)
        row_of_user, row_of_item = np.argsort(self.user), np.zeros(len(self.public.item_ids), np.int64)
        row_of_item[self.item[self.item >= 0]] = np.flatnonzero(self.item >= 0)
        row = row_of_user[known.user]
        order = np.argsort(row, kind="stable")
        return row[order], row_of_item[known.item][order]

    def lists(self, catalog_rows: Array) -> Array:
        """Return item lists [U, 10] by user, as rows of item_ids.

        `catalog_rows` are the lists by test row, as rows of the catalog. -1 stands for no item.
        """
        lists = np.full((len(self.user), DEPTH), -1, np.int64)
        lists[self.user] = np.where(catalog_rows >= 0, self.item[catalog_rows], -1)
        return lists


def run_lists(public: PublicSet, run: Path) -> Iterator[tuple[str, Array]]:
    """Yield (system, lists [U, 10]) of the two towers, and of the whole system if the run has a ranker.

    Raises FileNotFoundError for an unfinished run, DataError for a run on other data.
    """
    yield TWO_TOWERS, two_tower_lists(public, run)
    if "retrieval" in read_stage_manifest(run.resolve()):
        yield WHOLE_SYSTEM, system_lists(public, run)


@torch.no_grad()
def two_tower_lists(public: PublicSet, run: Path) -> Array:
    """Lists [U, 10] by inner product with every item vector."""
    towers = open_towers(run)
    rows = RunRows(public, towers.prepared)
    scorer = two_tower_scorer(towers.tower, towers.catalog)
    excluded_row, excluded_item = rows.excluded_items()
    lists, start = [], 0
    for batch in read_batches(rows.examples, BATCH_SIZE, with_candidates=False):
        scores = scorer(batch.query).numpy()  # [B, N+1]
        scores[:, 0] = -np.inf  # the unknown item
        bounds = np.searchsorted(excluded_row, [start, start + len(scores)])
        excluded = slice(*bounds)
        scores[excluded_row[excluded] - start, excluded_item[excluded]] = -np.inf
        lists.append(top_columns(scores))
        start += len(scores)
    return rows.lists(np.concatenate(lists))


def system_lists(public: PublicSet, folder: Path) -> Array:
    """Lists [U, 10] of the ranker's candidates by the run's objective, as slates are ordered."""
    run = open_run(folder)
    rows = RunRows(public, run.prepared)
    ranked = objective_ranking(score_split(run, "test"), open_objective(run), rows.snapshot)
    n_items = len(rows.item)
    excluded_row, excluded_item = rows.excluded_items()
    excluded = np.unique(excluded_row * n_items + excluded_item)
    key = segment_ids(ranked.offsets) * n_items + ranked.item
    allowed: RankedLists = mask_jagged(ranked, find_sorted(excluded, key) < 0)
    return rows.lists(top_k(sort_descending(allowed), DEPTH))
