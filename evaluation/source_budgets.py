"""Search for limits of the candidate sources, by the recall that each source adds per candidate.

    python -m evaluation.source_budgets                  the latest run, on its validation split
    python -m evaluation.source_budgets RUN --candidates 500

Every source proposes `depth` items. A greedy search starts with limits of 0. Each step raises the limit of
one source by `step`: the source whose next items add the most recall per new candidate. The search ends at
the wanted number of candidates. The command prints the limits, the recall of each source alone, and the
recall that each source adds to the union of all other sources.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.errors import DataError
from data.io.batches import to_batch
from data.io.parquet import sample_rows
from evaluation.cold_start import Towers, open_towers
from evaluation.jagged import Array
from models.jagged import segment_ids
from reporting.tables import text_table
from serving import command_line
from serving.command_line import argument, option
from serving.files import write_json
from training.candidate_sources import open_source_tables
from training.candidates import split_by_snapshot
from training.errors import ConfigError
from training.item_scores import ItemScores
from training.slate_exclusion import SlateExclusion
from training.source_settings import source_limits, source_names


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """Find limits of the candidate sources by the recall that each source adds per candidate."""

    run: str = argument("run folder; it may hold retrieval only", default="artifacts/runs/latest")
    candidates: int = option(300, "candidates of a checkout, on average")
    depth: int = option(300, "items that each source proposes")
    step: int = option(10, "items by which a limit grows in a step")
    checkouts: int = option(2000, "checkouts of the validation split")
    out: Path = option(Path("reports"), "folder of source-budgets.json")


class RankedProposals(NamedTuple):
    """Proposals of n items: each is proposed by a source for a checkout, with a rank."""

    source: Array  # [n] int64, position of the source
    rank: Array  # [n] int64, in the source's list of the checkout, 0 first
    pair: Array  # [n] int64, the (checkout, item) pair
    value: Array  # [P] float64, by pair: its share of the purchases of its checkout, over all checkouts


class Budget(NamedTuple):
    """Limits of the sources, with the recall and the number of candidates that they give."""

    limits: tuple[int, ...]  # by position of the source
    candidates: float  # mean number of distinct candidates of a checkout
    recall: float


def allocate(
    proposals: RankedProposals, n_sources: int, n_checkouts: int, step: int, max_candidates: float
) -> list[Budget]:
    """Return the budget after each step of the greedy search, in rising order.

    A block of `step` items without a new candidate costs nothing and is added at once.
    """
    max_blocks = int(proposals.rank.max(initial=-1)) // step + 1
    block = proposals.source * max_blocks + proposals.rank // step
    order = np.argsort(block, kind="stable")
    starts = np.searchsorted(block[order], np.arange(n_sources * max_blocks + 1))
    n_blocks = np.zeros(n_sources, np.int64)
    np.maximum.at(n_blocks, proposals.source, proposals.rank // step + 1)
    taken = np.zeros(len(proposals.value), bool)
    n_taken = [0] * n_sources  # blocks
    budgets: list[Budget] = []
    n_pairs, recall = 0, 0.0
    while n_pairs < max_candidates * n_checkouts:
        best: tuple[float, int, Array] | None = None
        for source in range(n_sources):
            if n_taken[source] == n_blocks[source]:
                continue
            first = source * max_blocks + n_taken[source]
            pairs = proposals.pair[order[starts[first] : starts[first + 1]]]
            pairs = pairs[~taken[pairs]]
            gain = proposals.value[pairs].sum() / len(pairs) if len(pairs) else np.inf
            if best is None or gain > best[0]:
                best = (gain, source, pairs)
        if best is None:
            break
        _, source, pairs = best
        taken[pairs] = True
        n_taken[source] += 1
        n_pairs += len(pairs)
        recall += float(proposals.value[pairs].sum())
        budgets.append(Budget(tuple(n * step for n in n_taken), n_pairs / n_checkouts, recall))
    return budgets


def reach(proposals: RankedProposals, limits: Sequence[int], n_checkouts: int) -> Budget:
    """Return the budget that `limits` give; `limits[i]` is the limit of source i."""
    kept = proposals.rank < np.asarray(limits)[proposals.source]
    pairs = np.unique(proposals.pair[kept])
    return Budget(tuple(limits), len(pairs) / n_checkouts, float(proposals.value[pairs].sum()))


def budget_rows(
    proposals: RankedProposals, names: Sequence[str], limits: Mapping[str, int], chosen: Budget, n: int
) -> list[dict[str, Any]]:
    """Return a row per source, and a row of the union of all sources.

    `limits` are the limits of the run's config; `n` is the number of checkouts.
    """
    today = [limits[name] for name in names]
    rows = []
    for position, name in enumerate(names):
        alone = [limit if p == position else 0 for p, limit in enumerate(chosen.limits)]
        without = [0 if p == position else limit for p, limit in enumerate(chosen.limits)]
        rows.append(
            {
                "source": name,
                "limit": today[position],
                "chosen": chosen.limits[position],
                "recall_alone": reach(proposals, alone, n).recall,
                "adds": chosen.recall - reach(proposals, without, n).recall,
            }
        )
    for label, budget in (("union of today's limits", reach(proposals, today, n)), ("union", chosen)):
        rows.append({"source": label, "candidates": budget.candidates, "recall_alone": budget.recall})
    return rows


@torch.no_grad()
def ranked_proposals(towers: Towers, depth: int, n_checkouts: int) -> tuple[RankedProposals, int]:
    """Return the proposals for a sample of the validation split, and the number of checkouts.

    Checkouts without purchases do not count. Items that the slate policy excludes are not candidates.
    """
    catalog = towers.catalog
    tables = open_source_tables(towers.cfg, towers.prepared, catalog)
    deeper = {n: replace(s, limit=max(s.limit, depth) if s.limit else 0) for n, s in tables.sources.items()}
    tables = replace(tables, sources=deeper)
    exclusion = SlateExclusion.of_folder(towers.prepared.folder)
    scores = ItemScores(catalog, towers.tower.n_sales)
    n_items, n_rows, n_counted = catalog.leaf.numel(), 0, 0
    parts: list[Array] = []  # each [4, n]: source, rank, key of the pair, share of the purchases
    file = towers.prepared.folder / "examples" / "validation.parquet"
    for chunk in split_by_snapshot(sample_rows(file, n_checkouts)):
        query, outcomes = to_batch(chunk)[:2]
        vector = towers.tower(query, catalog.vectors)
        ann = scores.nearest(vector, query.snapshot, tables.n_index_candidates)
        sources = tables.candidate_sources(chunk["snapshot"][0].as_py())
        personal = sources.personal_scores(query, catalog.leaf)
        everyone, personalised = sources.proposals(personal, ann, len(vector), n_items)
        key, bit, rank = (torch.cat(fields) for fields in zip(everyone, personalised, strict=True))
        row, item = key // n_items, key % n_items
        kept = catalog.available[item] & ~exclusion.is_excluded(query, row, item)
        bought = (segment_ids(outcomes.offsets) * n_items + outcomes.item)[outcomes.purchase]
        n_bought = torch.bincount(bought // n_items, minlength=len(vector))
        share = torch.isin(key, bought) / n_bought[row].clamp_min(1)
        kept &= n_bought[row] > 0
        source = torch.log2(bit.double()).round().long()
        columns = (source, rank, key + n_rows * n_items, share)
        parts.append(torch.stack([column[kept].double() for column in columns]).numpy())
        n_rows += len(vector)
        n_counted += int((n_bought > 0).sum())
    return _merge(parts, n_counted), n_counted


def _merge(parts: Sequence[Array], n_checkouts: int) -> RankedProposals:
    """Join the proposals of all parts, and number the (checkout, item) pairs."""
    source, rank, key, share = np.concatenate(parts, axis=1)
    pairs, pair = np.unique(key, return_inverse=True)
    value = np.zeros(len(pairs))
    value[pair] = share / n_checkouts
    return RankedProposals(source.astype(np.int64), rank.astype(np.int64), pair, value)


def print_budgets(options: BudgetOptions) -> int:
    """Print the limits and write them to `source-budgets.json`."""
    towers = open_towers(options.run, "validation")
    names = source_names(towers.cfg)
    proposals, n = ranked_proposals(towers, options.depth, options.checkouts)
    budgets = allocate(proposals, len(names), n, options.step, options.candidates)
    rows = budget_rows(proposals, names, source_limits(towers.cfg), budgets[-1], n)
    print(text_table(rows))
    curve = [budget._asdict() for budget in budgets]
    write_json(options.out / "source-budgets.json", {"sources": names, "rows": rows, "curve": curve})
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(
        "python -m evaluation.source_budgets",
        print_budgets,
        arguments=arguments,
        errors=(FileNotFoundError, DataError, ConfigError),
    )


if __name__ == "__main__":
    sys.exit(main())
