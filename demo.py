"""Show slates for real checkouts from an exported bundle: `python demo.py`, the last step of `make demo`.

Takes checkouts of the test period that the models never saw, asks the bundle through `serving` alone, and
marks what the household really bought in the horizon that followed.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.feature_schema import FeatureSchema
from exporting import golden_requests
from serving import BundleError, Recommender
from training.stage_folders import read_stage_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("artifacts/runs/latest"))
    parser.add_argument("--bundle", type=Path, default=Path("bundle"))
    parser.add_argument("--count", type=int, default=3, help="how many checkouts")
    arguments = parser.parse_args()
    try:
        prepared = arguments.run / read_stage_manifest(arguments.run)["prepared"]
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    try:
        recommender = Recommender.load(arguments.bundle)
    except BundleError as error:
        sys.exit(f"error: {error}")
    items = pq.read_table(prepared / "items.parquet", columns=["item_id", "title"])
    ids, titles = items["item_id"].to_pylist(), items["title"].to_pylist()
    examples = sample_examples(pq.read_table(prepared / "examples" / "test.parquet"), arguments.count)
    schema = FeatureSchema.load(prepared)
    checkouts = golden_requests.to_checkouts(examples, ids, schema.context, schema.profile)
    asof = np.datetime64(recommender.bundle.manifest["data"]["snapshot"], "s").astype("datetime64[D]")
    print(f"The bundle's popularity, prices and neighbours are as of {asof}: a picture, no measurement.")
    for checkout, example in zip(checkouts, examples.to_pylist(), strict=True):
        bought = {
            ids[i] for i, p in zip(example["outcome_item"], example["outcome_purchase"], strict=True) if p
        }
        when = np.datetime64(example["ts"], "s")
        print(
            f"\nHousehold {example['user_id']} at {when}, {len(example['history_item'])} events before."
            " Just paid:"
        )
        for row, quantity, price in zip(
            example["basket_item"], example["basket_quantity"], example["basket_price"], strict=True
        ):
            print(f"    {quantity:>4.0f} × {price:7.2f}  {titles[row]}")
        slate = recommender.recommend(checkout)
        print(
            f"  Six more ({slate.tier}, {slate.timings['total']:.1f} ms;"
            " * = bought in the horizon that followed):"
        )
        print("      p(click)  p(purchase)  expected value    price  item")
        for item in slate.items:
            print(
                f"    {'*' if item.item_id in bought else ' '} {item.click:8.3f}  {item.purchase:11.3f}"
                f"  {item.value:14.3f}  {item.price:7.2f}  {item.title}  ({', '.join(item.sources)})"
            )


def sample_examples(examples: pa.Table, count: int) -> pa.Table:
    """`count` examples spread over the period, with a basket of 3 to 12 lines and something bought after."""
    lines, after = (pc.list_value_length(examples[c]).to_numpy() for c in ("basket_item", "outcome_item"))
    fitting = np.flatnonzero((lines >= 3) & (lines <= 12) & (after > 0))
    if not len(fitting):
        sys.exit("error: no test checkout has a basket of 3 to 12 lines and a purchase after it")
    chosen = fitting[np.linspace(0, len(fitting) - 1, count + 2).astype(int)[1:-1]]
    return examples.take(pa.array(chosen))


if __name__ == "__main__":
    main()
