"""Ranks candidates: turns predictions into an order, under the slate policy.

candidates ─ ranker ─▶ outputs of T tasks ─ objective ─▶ score ─ slate policy ─▶ RankedItems
     ╰─ if the ranker fails, by inner product ─▶ Retrieved
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checkout import ITEM_TASKS
from ..storage.bundle import Bundle, Candidates
from ..storage.formats import TaskOutput, manifest_sales
from .objective import Range
from .rules.compiled import RulesInForce
from .selection import SlateItems, select_slates
from .slate_policy import SlatePolicy, check_policy, impute_column, score_candidates
from .slot_limits import SlotLimits, rule_limits

NUMBER_BYTES, TUPLE_BYTES = 40, 64  # of an int or float with its place in a tuple; of a tuple


class PredictionRows(NamedTuple):
    """The names of the tasks, and which rows of the ranker's output make each field of Item.

    The product of the rows is the field.
    """

    names: tuple[str, ...]  # T
    click: tuple[int, ...] | None  # None without such a task
    purchase: tuple[int, ...] | None
    value: tuple[int, ...] | None

    @classmethod
    def of_tasks(cls, tasks: Sequence[TaskOutput]) -> "PredictionRows":
        row_by_name = {task.name: row for row, task in enumerate(tasks)}

        def factors(name: str | None) -> tuple[int, ...]:
            """Rows whose product is a task's unconditional expectation."""
            if name is None:
                return ()
            task = tasks[row_by_name[name]]
            return (*(() if task.is_unconditional() else factors(task.given)), row_by_name[name])

        return cls(
            tuple(row_by_name),
            *(factors(name) if name in row_by_name else None for name in ITEM_TASKS),
        )


class RankedItems(NamedTuple):
    """The n items of a tier, in the tier's order.

    Tuples are used because slates are cached: arrays would pin the memory around them, and the garbage
    collector would visit lists repeatedly.
    """

    tier: str
    item_row: tuple[int, ...]
    source_mask: tuple[int, ...]  # bit i: the manifest's i-th source
    predictions: tuple[tuple[float, ...], ...] | None = None  # [n][T]; None where the tier makes none
    click: tuple[float, ...] | None = None  # None also without such a task
    purchase: tuple[float, ...] | None = None
    value: tuple[float, ...] | None = None
    propensity: tuple[float, ...] | None = None  # None: 1 for every item

    def estimate_bytes(self) -> int:
        """An upper bound of the bytes of memory: every number counts as a separate object."""
        numbers = [column for column in self[1:] if column is not None]
        rows = self.predictions or ()
        n_tuples = 1 + len(numbers) + len(rows)
        n_numbers = sum(map(len, numbers)) + sum(map(len, rows))
        return TUPLE_BYTES * n_tuples + NUMBER_BYTES * n_numbers

    @classmethod
    def from_predictions(
        cls,
        candidates: Candidates,
        outputs: NDArray[np.float32],
        task_rows: PredictionRows,
        columns: NDArray[np.int64],
        propensity: tuple[float, ...] | None = None,
    ) -> "RankedItems":
        """The ranked items for the candidates at positions `columns` [n], in that order.

        `outputs` [T, ΣC] are the ranker's outputs.
        """
        predictions = outputs[:, columns]  # [T, n]
        return cls(
            "ranked",
            tuple(candidates.item.numpy()[columns].tolist()),
            tuple(candidates.source_mask.numpy()[columns].tolist()),
            tuple(map(tuple, predictions.T.tolist())),
            _product(predictions, task_rows.click),
            _product(predictions, task_rows.purchase),
            _product(predictions, task_rows.value),
            propensity,
        )


def _product(predictions: NDArray[np.float32], rows: tuple[int, ...] | None) -> tuple[float, ...] | None:
    if rows is None:
        return None
    first, *further = rows
    product = predictions[first]
    for row in further:
        product = product * predictions[row]
    return tuple(product.tolist())


class Retrieved(NamedTuple):
    """Candidates without predictions. They are the result if the ranker fails."""

    item_row: NDArray[np.int64]  # [n], -1 for none
    source_mask: NDArray[np.int64] | None = None  # [n]; None: the index alone, bit 0
    score: NDArray[np.float32] | None = None  # [n] inner products; None: already in order

    def to_ranked_items(self) -> RankedItems:
        order = (
            np.arange(len(self.item_row)) if self.score is None else np.argsort(-self.score, kind="stable")
        )
        order = order[self.item_row[order] >= 0]
        mask = np.ones(len(self.item_row), np.int64) if self.source_mask is None else self.source_mask
        return RankedItems("retrieval", tuple(self.item_row[order].tolist()), tuple(mask[order].tolist()))


class SlateSelector:
    """Selects slates from predictions, by the item columns of a bundle.

    Args:
        items: the item columns that the selection reads.
        tasks: name → kind, in the order of the ranker's output.
        item_columns: the columns that the policies' objectives read, by name, each [N+1] without NaN.
    """

    def __init__(
        self,
        items: SlateItems,
        tasks: Mapping[str, str],
        item_columns: Mapping[str, NDArray[np.floating]],
    ) -> None:
        self.items, self.tasks, self.item_columns = items, tasks, item_columns

    @classmethod
    def of_bundle(cls, bundle: Bundle, policy: SlatePolicy) -> "SlateSelector":
        """The selector of a bundle. Raises ValueError if `policy` cannot score all of its items."""
        tasks = {task.name: task.kind for task in bundle.tasks}
        item_columns: dict[str, NDArray[np.floating]] = dict(bundle.item_columns)
        if policy.margin:
            item_columns["margin"] = impute_column("margin", bundle.margin)
        ranges = {
            name: Range(float(column.min()), float(column.max())) for name, column in item_columns.items()
        }
        check_policy(policy, tasks, ranges)
        n_sales = manifest_sales(bundle.manifest)
        items = SlateItems(bundle.leaf, bundle.product, bundle.catalog.vectors.numpy(), n_sales)
        return cls(items, tasks, item_columns)

    def score(
        self,
        policy: SlatePolicy,
        item: NDArray[np.int64],
        outputs: NDArray[np.float32],
        rules: RulesInForce | None = None,
    ) -> NDArray[np.float64]:
        """Returns the policy's objective for the candidates `item`, of any shape.

        `outputs` [T, ...] are the ranker's outputs for them.
        """
        columns = {name: column[item] for name, column in self.item_columns.items()}
        score = score_candidates(policy, self.tasks, outputs, columns)
        return score if rules is None else rules.boosted(score, item)

    def select(
        self,
        policy: SlatePolicy,
        eligible: NDArray[np.bool_],
        item: NDArray[np.int64],
        outputs: NDArray[np.float32],
        rules: RulesInForce | None = None,
    ) -> NDArray[np.int64]:
        """Returns the slate of one checkout: at most 6 positions among its n candidates, best first.

        Args:
            eligible: [N+1] bool, by item row.
            outputs: [T, n] outputs of the ranker.
            rules: rules in force. If rules pin items, the positions are those for the open slots only.
        """
        limits = rule_limits(rules, eligible)
        score = self.score(policy, item[None], outputs[:, None], rules)
        columns = select_slates(score, eligible[item[None]], item[None], self.items, policy, limits).column[0]
        selected: NDArray[np.int64] = columns[columns >= 0]
        return selected

    def can_explore(
        self,
        policy: SlatePolicy,
        eligible: NDArray[np.bool_],
        item: NDArray[np.int64],
        columns: NDArray[np.int64],
        rules: RulesInForce | None = None,
    ) -> NDArray[np.bool_]:
        """Whether the last slot of the slate `columns` may show a candidate instead: [n] bool.

        These candidates are eligible and keep the product cap and the caps and floors of rules. If the slate
        itself breaks a limit, no candidate may replace its last item, because SlateBuilder then shows other
        items independently of the draw.
        """
        can_show: NDArray[np.bool_] = eligible[item]
        earlier_rows = item[columns[:-1]]
        if (limits := rule_limits(rules, eligible)) is not None:
            can_show &= _fits_last_slot(limits, item, columns)
            earlier_rows = np.concatenate([earlier_rows, np.array(limits.pinned_rows, np.int64)])
        if policy.product_cap is None:
            return can_show
        code, earlier = self.items.product[item], self.items.product[earlier_rows]
        count = (code[:, None] == earlier).sum(1)
        can_show &= (code == 0) | (count < policy.product_cap)  # of a copy
        return can_show

    def select_batch(
        self,
        policy: SlatePolicy,
        eligible: NDArray[np.bool_],
        item: NDArray[np.int64],
        outputs: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Returns the slates [B, 6] of B checkouts, as columns of `item`; -1 for an empty slot.

        `item` has the candidates [B, C], padded with row 0. `outputs` are [T, B, C].
        """
        score = self.score(policy, item, outputs)
        return select_slates(score, eligible[item], item, self.items, policy).column


def _fits_last_slot(
    limits: SlotLimits, item: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the limits accept a candidate in place of the last one of `columns`: [n] bool."""
    *earlier, last = item[columns].tolist()
    for row in earlier:
        if not limits.accepts(row):
            return np.zeros(len(item), np.bool_)
        limits.add(row)
    if not limits.accepts(last):
        return np.zeros(len(item), np.bool_)
    return limits.accepts_rows(item) & ~np.isin(item, limits.pinned_rows)
