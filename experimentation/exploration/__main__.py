"""`python -m experimentation.exploration`: exploration policies by regret, and new items' impressions."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experimentation.exploration.comparison import NEW_ITEM_FOLLOW_DAYS, compare_policies
from experimentation.exploration.page import page
from experimentation.exploration.simulated_shop import ShopConfig
from reporting.tables import text_table
from serving.command_line import option, run
from serving.files import write_json, write_text

MIN_ITEMS = 60  # with fewer, no new item may arrive in time to be followed
PRINTED_COLUMNS = (
    "appeal", "policy", "regret", "gain", "gain_low", "gain_high", "learning_gain", "exploration_cost",
    "new_item_revenue", "new_item_share", "top_new_impressions", "top_new_impressions_gain",
    "days_to_discovery",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExplorationOptions:
    """Compare exploration policies in simulated shops by regret and by impressions of new items."""

    seeds: int = option(30, "shops for each appeal weight, 2 or more")
    days: int = option(60, "days that are compared")
    checkouts: int = option(100, "checkouts a day")
    items: int = option(150, "items, of which 15 % arrive during these days")
    out: Path = option(Path("reports"), "folder of the report")

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"--seeds is {self.seeds}: an interval needs 2 shops or more")
        if self.days < 2 * NEW_ITEM_FOLLOW_DAYS:
            raise ValueError(
                f"--days is {self.days}: expected {2 * NEW_ITEM_FOLLOW_DAYS} or more, because each "
                f"new item is followed for {NEW_ITEM_FOLLOW_DAYS} days"
            )
        if self.checkouts < 1 or self.items < MIN_ITEMS:
            raise ValueError(f"give a checkout a day and {MIN_ITEMS} items or more")


def explore(options: ExplorationOptions) -> int:
    """Compare the policies; print and write the rows and the page."""
    shop = ShopConfig(0, options.days, options.checkouts, options.items)
    rows = compare_policies(shop, options.seeds)
    write_json(options.out / "exploration.json", rows)
    write_text(options.out / "exploration.html", page(rows, options.seeds, options.days))
    print(text_table([{name: row.get(name) for name in PRINTED_COLUMNS} for row in rows]))
    print(f"\nwritten: {options.out / 'exploration.html'}, exploration.json")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the policies with these arguments. Returns the exit code."""
    return run("python -m experimentation.exploration", explore, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
