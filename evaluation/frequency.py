"""The cost of a frequency cap, measured by a replay of a split's checkouts.

    python -m evaluation.frequency                         the latest run, on validation: to choose a cap
    python -m evaluation.frequency RUN --split test        the figures of the documentation

The checkouts are replayed in order of time. The replay of each cap remembers the slates that this cap
allowed. A purchase of an item resets the item's count; clicks are unknown. For the test split, the memory
starts with the slates of the validation split. The cost is an upper bound: a shopper might have bought the
item that the capped slate shows instead, and the log does not contain that purchase.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np

from data.errors import DataError
from evaluation import protocol, scoring
from evaluation.jagged import Array, RankedLists, sort_descending
from evaluation.metrics import ndcg_at, paired_bootstrap, revenue_at
from evaluation.objective import Objective, objective_ranking, open_objective
from reporting.tables import text_table
from serving import command_line
from serving.command_line import argument, option
from serving.pipeline.frequency import FrequencyCap, capped_items, count_by_item
from serving.pipeline.slate_policy import SLOTS
from serving.stores.impressions import MAX_SLATES, ShownSlate
from training.errors import ConfigError
from training.trained_run import Run, open_run

TIMES, WINDOWS = (1, 2, 3), ("7d", "14d", "28d")
CONSECUTIVE = 8  # checkouts of a user over which distinct items are counted


@dataclass(frozen=True, kw_only=True)
class FrequencyOptions:
    """Measure NDCG@6 and revenue@6 of a run's slates with and without frequency caps, by a replay."""

    run: str = argument("run folder", default="artifacts/runs/latest")
    split: Literal["validation", "test"] = option("validation", "split of the run's data to read")


class Checkouts(NamedTuple):
    """The checkouts of a split, by time, and the candidates of each checkout in the run's order."""

    split: protocol.Split
    ranked: RankedLists  # best first, without what the checkout keeps off the slate


@dataclass
class UserMemory:
    """The items that one user was shown so far, and the items that the user bought."""

    slates: list[ShownSlate] = field(default_factory=list)
    last_purchases: dict[str, int] = field(default_factory=dict)  # item → Unix seconds


def replay(checkouts: Checkouts, cap: FrequencyCap | None, memories: dict[str, UserMemory]) -> Array:
    """Return the slates [n, 6] under the cap; -1 is an empty slot. Reads and extends `memories`."""
    split, ranked = checkouts
    slates = np.full((len(split.ts), SLOTS), -1, np.int64)
    for row, (order, user, ts) in enumerate(
        zip(split.order_id.tolist(), split.user_id.tolist(), split.ts.tolist(), strict=True)
    ):
        memory = memories.setdefault(user, UserMemory())
        basket = split.basket_item[slice(*split.basket_offsets[row : row + 2])]
        memory.last_purchases |= dict.fromkeys(map(str, basket.tolist()), ts)
        items = ranked.item[slice(*ranked.offsets[row : row + 2])].tolist()
        slate = _slate(items, cap, memory, ts)
        slates[row, : len(slate)] = slate
        memory.slates = [*memory.slates, ShownSlate(order, ts, tuple(map(str, slate)))][-MAX_SLATES:]
    return slates


def _slate(items: list[int], cap: FrequencyCap | None, memory: UserMemory, ts: int) -> list[int]:
    """Return the first six candidates that are not capped.

    Capped candidates fill the slots that are left. Of these, the least shown comes first.
    """
    if cap is None or not memory.slates:
        return items[:SLOTS]
    recent = [slate for slate in memory.slates if slate.ts > ts - cap.window_seconds]
    capped = [int(item) for item in capped_items(cap, count_by_item(recent, memory.last_purchases))]
    is_candidate, is_capped = set(items), set(capped)
    slate = [item for item in items if item not in is_capped][:SLOTS]
    return [*slate, *(item for item in capped if item in is_candidate)][:SLOTS]


def distinct_items(slates: Array, user: Array) -> dict[str, float]:
    """Measure the variety of each user's slates as `distinct8` and `new_share`.

    `slates` [n, 6] are in order of time; `user` [n] is the user of each slate.

    `distinct8` is the mean number of distinct items over 8 consecutive checkouts of a user; NaN if no user
    has 8. `new_share` is the share of slots with an item that the user was not shown before, from the user's
    second checkout on.
    """
    counts, n_new, n_slots = [], 0, 0
    for code in np.unique(user):
        own = slates[user == code]
        for start in range(0, len(own) - CONSECUTIVE + 1, CONSECUTIVE):
            block = own[start : start + CONSECUTIVE]
            counts.append(len(np.unique(block[block >= 0])))
        later = own[1:]
        n_slots += int((later >= 0).sum())
        n_new += len(np.unique(own[own >= 0])) - int((own[0] >= 0).sum())
    return {
        f"distinct{CONSECUTIVE}": float(np.mean(counts)) if counts else float("nan"),
        "new_share": n_new / n_slots if n_slots else float("nan"),
    }


def cap_costs(earlier: Checkouts | None, checkouts: Checkouts) -> list[dict[str, Any]]:
    """Return one row without a cap and one per cap, over the checkouts with a purchase that counts.

    The memory starts with the slates of the split `earlier`. Changes are relative to slates without a cap and
    have a 95 % interval over users.
    """
    caps = [None, *(FrequencyCap(times, window) for window, times in product(WINDOWS, TIMES))]
    part = protocol.slices(checkouts.split)[0]
    user = checkouts.split.user[part.rows]
    rows: list[dict[str, Any]] = []
    uncapped: tuple[Array, Array] | None = None
    for cap in caps:
        memories: dict[str, UserMemory] = {}
        if earlier is not None:
            replay(earlier, cap, memories)
        slates = replay(checkouts, cap, memories)
        ndcg = ndcg_at(slates, part.purchases)[part.rows]
        revenue = revenue_at(slates, part.purchases)[part.rows]
        uncapped = uncapped or (ndcg, revenue)
        ndcg_change, revenue_change = (
            paired_bootstrap(values, baseline, user)
            for values, baseline in zip((ndcg, revenue), uncapped, strict=True)
        )
        rows.append(
            {"cap": "none" if cap is None else f"{cap.times} in {cap.window}"}
            | {"ndcg6": float(ndcg.mean()), "ndcg6 change": _interval(ndcg_change, 4)}
            | {"revenue6": float(revenue.mean()), "revenue6 change": _interval(revenue_change, 2)}
            | distinct_items(slates, checkouts.split.user)
        )
    return rows


def _interval(change: Any, digits: int) -> str:
    return f"{change.difference:+.{digits}f} [{change.low:+.{digits}f}, {change.high:+.{digits}f}]"


def read_checkouts(run: Run, objective: Objective, name: str) -> Checkouts:
    """The checkouts of split `name`, with their candidates in the order of the objective."""
    split = protocol.load_split(run.prepared.folder, name)
    ranked = objective_ranking(scoring.score_split(run, name), objective, split.snapshot)
    return Checkouts(split, sort_descending(protocol.drop_excluded(ranked, split)))


def compare_caps(options: FrequencyOptions) -> int:
    """Print the costs of frequency caps."""
    run = open_run(options.run)
    objective = open_objective(run)
    checkouts = read_checkouts(run, objective, options.split)
    earlier = read_checkouts(run, objective, "validation") if options.split == "test" else None
    part = protocol.slices(checkouts.split)[0]
    n_users = len(np.unique(checkouts.split.user))
    print(f"objective: {objective.expression}")
    print(f"{options.split}: {len(part.rows):,} checkouts that count, {n_users:,} users\n")
    print(text_table(cap_costs(earlier, checkouts)))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(
        "python -m evaluation.frequency",
        compare_caps,
        arguments=arguments,
        errors=(FileNotFoundError, DataError, ConfigError),
    )


if __name__ == "__main__":
    sys.exit(main())
