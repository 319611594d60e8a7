"""`python -m serving recommend`: one slate from the command line."""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from serving import BundleError, Checkout, EventStore, Line, Recommender, Slate
from serving.slate import Policy

WHY = {
    "ann": "near the user's taste",
    "buy_again": "bought before",
    "co_purchase": "goes with the basket",
    "category": "bestseller of its category",
    "popularity": "popular",
    "recency": "new",
    "collaborative": "liked by those who buy the same",
}
EPILOG = """\
example: python -m serving recommend --bundle bundle --user 900 --items 1095275,9878513
exit codes: 0 answered, 1 the bundle or store cannot serve, 2 wrong arguments"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, answer, print. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="Answer checkouts from a bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "recommend",
        help="print the slate of one checkout",
        description="Print the six items to show after a checkout.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--bundle", default="bundle", help="bundle root or version folder (default: bundle)")
    command.add_argument("--store", help="event store (default: store.arrow in the bundle root, if there)")
    command.add_argument("--user", help="user id; leave out for a guest")
    command.add_argument("--items", default="", help="ids of the items just paid, separated by commas")
    command.add_argument("--exclude", default="", help="item ids that must not be shown, separated by commas")
    command.add_argument(
        "--categories", help="category paths (a or a/b) to stay within, separated by commas (default: all)"
    )
    command.add_argument(
        "--context",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="attribute of the order; repeatable",
    )
    command.add_argument(
        "--ts", type=int, help="Unix seconds of the checkout (default: the end of the bundle's data)"
    )
    command.add_argument(
        "--revenue-weight",
        type=float,
        metavar="W",
        help="0 for most purchases to 1 for most revenue (default: as exported)",
    )
    command.add_argument("--deadline-ms", type=float, default=100.0, help="default: 100")
    command.add_argument("--json", action="store_true", help="print the slate as JSON")
    options = parser.parse_args(arguments)
    try:
        checkout = checkout_of(options)
        if options.revenue_weight is not None:
            Policy(revenue_weight=options.revenue_weight)
    except ValueError as error:
        parser.error(str(error))  # exits with 2
    try:
        recommender = Recommender.load(options.bundle, store_of(options))
    except (BundleError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if checkout.ts is None:
        # The demonstration's log ended years ago; as of now, everything in it would be old.
        checkout = checkout_of(options, recommender.bundle.manifest["data"]["window"]["end"])
    slate = recommender.recommend(checkout, options.deadline_ms, options.revenue_weight)
    if options.json:
        print(json.dumps(asdict(slate), ensure_ascii=False, indent=2))
    else:
        for note in notes(recommender, checkout):
            print(f"note: {note}", file=sys.stderr)
        print(table(slate, checkout))
    return 0


def checkout_of(options: argparse.Namespace, ts: int | None = None) -> Checkout:
    """The checkout that the arguments describe. Raises ValueError if there can be no such checkout."""
    pairs = [pair.partition("=") for pair in options.context]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"--context {wrong[0]}: expected NAME=VALUE")
    return Checkout(
        user_id=options.user,
        basket=[Line(item_id) for item_id in ids(options.items)],
        ts=options.ts if options.ts is not None else ts,
        context={name: value for name, _, value in pairs},
        exclude=ids(options.exclude),
        categories=None if options.categories is None else ids(options.categories),
    )


def ids(text: str) -> list[str]:
    """Item ids from `a,b,c`."""
    return [item_id.strip() for item_id in text.split(",") if item_id.strip()]


def store_of(options: argparse.Namespace) -> EventStore | None:
    """The store that was asked for, else the one in the bundle root. Raises FileNotFoundError, ValueError."""
    if options.store:
        return EventStore.open(options.store)
    bundle = Path(options.bundle)
    for folder in (bundle, bundle.parent):
        if (folder / "store.arrow").is_file():
            return EventStore.open(folder / "store.arrow")
    return None


def notes(recommender: Recommender, checkout: Checkout) -> list[str]:
    """What the answer could not take into account."""
    found = [
        f"item {line.item_id} is unknown"
        for line in checkout.basket
        if line.item_id not in recommender.bundle.row_of
    ]
    user, store = checkout.user_id, recommender.store
    if user is not None and store is None:
        found.append("there is no event store: answered without the user's history")
    elif user is not None and store is not None and not store.get(user).item_id:
        found.append(f"user {user} has no events in the store: answered as a new user")
    return found


def table(slate: Slate, checkout: Checkout) -> str:
    """A slate for people."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(checkout.ts))
    lines = [
        f"user {checkout.user_id or '(guest)'}, {len(checkout.basket)} lines paid, {when}",
        f"{'':2} {'item':>10}  {'title':32} {'price':>7} {'p(click)':>8} {'p(purch)':>8} {'value':>7}  why",
    ]
    for place, item in enumerate(slate.items, start=1):
        why = ", ".join(WHY[source] for source in item.sources)
        chances = f"{_number(item.click):>8} {_number(item.purchase):>8} {_number(item.value):>7}"
        lines.append(f"{place:2} {item.item_id:>10}  {item.title[:32]:32} {item.price:7.2f} {chances}  {why}")
    stages = ", ".join(f"{stage} {taken:.2f}" for stage, taken in slate.timings.items() if stage != "total")
    lines.append(
        f"{slate.timings['total']:.2f} ms ({stages}), tier {slate.tier}, bundle {slate.bundle_version}"
    )
    if slate.reason:
        lines.append(f"reason: {slate.reason}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
