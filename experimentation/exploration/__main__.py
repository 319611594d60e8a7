"""`python -m experimentation.exploration`: exploration policies by regret, and what they bring new items."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experimentation.exploration import comparison
from experimentation.exploration.page import page
from experimentation.exploration.simulated_shop import ShopConfig
from reporting.tables import text_table, write_atomically, write_json

MIN_ITEMS = 60  # items, so that new ones among them arrive in time to be followed
PRINTED_COLUMNS = ("answers", "policy", "regret", "gain", "gain_low", "gain_high", "taught", "paid", "new_revenue",
         "new_share", "new_best", "new_best_gain", "new_wait")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print and write. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experimentation.exploration",
        description="Exploration policies in simulated shops: regret, and what it brings new items.",
    )
    add = partial(parser.add_argument, type=int)
    add("--seeds", default=30, help="shops of each kind, 2 or more; default: 30")
    add("--days", default=60, help="that are compared; default: 60")
    add("--checkouts", default=100, help="a day; default: 100")
    add("--items", default=150, help="of which 15 %% arrive while the days pass; default: 150")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="default: reports")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds is {options.seeds}: an interval needs 2 shops or more")
    if options.days < 2 * comparison.NEW_ITEM_FOLLOW_DAYS:
        parser.error(
            f"--days is {options.days}: new items are followed for {comparison.NEW_ITEM_FOLLOW_DAYS}, so give twice that"
        )
    if options.checkouts < 1 or options.items < MIN_ITEMS:
        parser.error(f"give a checkout a day and {MIN_ITEMS} items or more")
    shop = ShopConfig(0, options.days, options.checkouts, options.items)
    rows = comparison.compare_policies(shop, options.seeds)
    write_json(rows, options.out / "exploration.json")
    write_atomically(options.out / "exploration.html", page(rows, options.seeds, options.days))
    print(text_table([{name: row.get(name) for name in PRINTED_COLUMNS} for row in rows]))
    print(f"\nwritten: {options.out / 'exploration.html'}, exploration.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
