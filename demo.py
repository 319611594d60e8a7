"""Show slates for real checkouts: `python demo.py`, the last step of `make demo`."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import DataError
from data.feature_schema import FeatureSchema
from exporting import golden_requests
from serving import BundleError, Checkout, Recommender, Slate
from serving.command_line import option, run
from serving.storage.bundle import Bundle
from serving.storage.bundle_mirror import bundle_path
from serving.storage.formats import TaskOutput
from training.stage_folders import read_stage_manifest


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Show slates for real checkouts from an exported bundle.

    The checkouts are of the test period, which the models never saw. `serving` alone answers them from the
    bundle. A * marks an item that the household bought in the horizon after the checkout.
    """

    run: Path = option(Path("artifacts/runs/latest"), "the run folder whose prepared data are used")
    bundle: Path = option(Path("bundle"), "bundle root or version folder", parse=bundle_path)
    checkouts: int = option(3, "number of checkouts")
    check: bool = option(
        False,
        "print only how many slates hold an item of their basket or two packs of one product; exit 1 if any",
    )


def demo(options: DemoOptions) -> int:
    """Print the slates, or check them. Returns the exit code."""
    prepared = options.run / read_stage_manifest(options.run)["prepared"]
    recommender = Recommender.load(options.bundle)
    items = pq.read_table(prepared / "items.parquet", columns=["item_id", "title"])
    item_ids, titles = items["item_id"].to_pylist(), items["title"].to_pylist()
    examples = sample_examples(pq.read_table(prepared / "examples" / "test.parquet"), options.checkouts)
    schema = FeatureSchema.load(prepared)
    checkouts = golden_requests.to_checkouts(examples, item_ids, schema.context, schema.profile)
    if options.check:
        return check_slates(recommender.bundle, [(c, recommender.recommend(c, math.inf)) for c in checkouts])
    asof = np.datetime64(recommender.bundle.manifest["data"]["snapshot"], "s").astype("datetime64[D]")
    print(
        f"The bundle's popularity, prices and neighbours are as of {asof}: an illustration, no measurement."
    )
    for checkout, example in zip(checkouts, examples.to_pylist(), strict=True):
        print_checkout(example, titles)
        outcomes = zip(example["outcome_item"], example["outcome_purchase"], strict=True)
        bought = {item_ids[row] for row, is_bought in outcomes if is_bought}
        print_slate(recommender.recommend(checkout), recommender.bundle.tasks, bought)
    return 0


def check_slates(bundle: Bundle, slates: Sequence[tuple[Checkout, Slate]]) -> int:
    """Print how many slates show an item just paid or a product twice; returns 1 if any slate does, else 0.

    A bundle exported with a slate policy that allows such slates fails the check, too.
    """
    repeats = [{line.item_id for line in c.basket} & {item.item_id for item in s.items} for c, s in slates]
    duplicates = [duplicate_titles(bundle, slate) for _, slate in slates]
    print(
        f"{len(slates)} slates: {sum(map(bool, repeats))} hold an item of their basket, "
        f"{sum(map(bool, duplicates))} two packs of one product"
    )
    for titles in filter(None, duplicates):
        print(f"  two packs: {', '.join(titles)}")
    return int(any(repeats) or any(duplicates))


def duplicate_titles(bundle: Bundle, slate: Slate) -> list[str]:
    """Titles of the items of a slate that are packs of one product (data/product_codes.py)."""
    row = np.array(bundle.item_rows.lookup(item.item_id for item in slate.items), np.int64)
    code = bundle.product[row]
    return [
        item.title
        for item, product in zip(slate.items, code, strict=True)
        if product and (code == product).sum() > 1
    ]


def sample_examples(examples: pa.Table, count: int) -> pa.Table:
    """`count` examples spread over the period, with a basket of 3 to 12 lines and an outcome.

    Raises DataError if no example qualifies.
    """
    basket_lines, outcomes = (
        pc.list_value_length(examples[column]).to_numpy() for column in ("basket_item", "outcome_item")
    )
    rows = np.flatnonzero((basket_lines >= 3) & (basket_lines <= 12) & (outcomes > 0))
    if not len(rows):
        raise DataError("no test checkout has a basket of 3 to 12 lines and a purchase after it")
    return examples.take(pa.array(rows[np.linspace(0, len(rows) - 1, count + 2).astype(int)[1:-1]]))


def print_checkout(example: dict[str, Any], titles: list[str]) -> None:
    """Print the basket of an example."""
    ts = np.datetime64(example["ts"], "s")
    n_events = len(example["history_item"])
    print(f"\nHousehold {example['user_id']} at {ts}, {n_events} events before. Just paid:")
    for row, quantity, price in zip(
        example["basket_item"], example["basket_quantity"], example["basket_price"], strict=True
    ):
        print(f"    {quantity:>4.0f} × {price:7.2f}  {titles[row]}")


def print_slate(slate: Slate, tasks: Sequence[TaskOutput], bought: set[str]) -> None:
    """Print a slate with the predictions of the tasks, and a * at each item that was bought."""
    print(
        f"  Six more ({slate.tier}, {slate.timings['total']:.1f} ms;"
        " * = bought in the horizon that followed):"
    )
    names = {task.name: _column_name(task) for task in tasks}
    has_value = any(item.value is not None for item in slate.items)
    header = "  ".join([*names.values(), *["expected value"] * has_value, "   price"])
    print(f"      {header}  item")
    for item in slate.items:
        predictions = item.predictions or {}  # a fallback tier makes none
        cells = [(predictions.get(name), len(column), 3) for name, column in names.items()]
        cells += [(item.value, len("expected value"), 3)] * has_value
        cells.append((item.price, len("   price"), 2))
        numbers = "  ".join(
            f"{'–' if value is None else f'{value:.{digits}f}':>{width}}" for value, width, digits in cells
        )
        mark = "*" if item.item_id in bought else " "
        print(f"    {mark} {numbers}  {item.title}  ({', '.join(item.sources)})")


def _column_name(task: TaskOutput) -> str:
    name = task.name if task.is_unconditional() else f"{task.name} | {task.given}"
    return f"p({name})" if task.kind == "binary" else f"E[{name}]"


if __name__ == "__main__":
    sys.exit(run("python demo.py", demo, errors=(FileNotFoundError, BundleError, DataError)))
