"""`python -m serving`: one slate, the slates of a file, a service, or filling an event store."""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from . import BundleError, Checkout, Line, Recommender, Slate, Store, open_store
from .batch.recommend import BATCH_SIZE, BatchJob, run_batch_job
from .batch.rows import CHECKOUT_ID, INPUT_SCHEMA
from .http.command import add_http_parser
from .pipeline.slate_policy import SlatePolicy
from .progress import ProgressReporter
from .rollback import add_rollback_parser
from .stores.base import MAX_EVENTS, TTL
from .stores.loading import bulk_load

SOURCE_REASONS = {
    "ann": "near the user's taste",
    "buy_again": "bought before",
    "co_purchase": "goes with the basket",
    "category": "bestseller of its category",
    "popularity": "popular",
    "recency": "new",
    "ease": "liked by those who buy the same",
}
EPILOG = """\
example: python -m serving recommend --bundle bundle --user 900 --items 1095275,9878513
exit codes: 0 answered, 1 the bundle or store cannot serve, 2 wrong arguments"""
BATCH_EPILOG = """\
example: python -m serving batch --bundle bundle --checkouts checkouts.parquet --out slates.parquet
The columns are listed in docs/architecture.md; user_id and basket_item_id must be there.
exit codes: 0 written, 1 the bundle, store or file cannot serve or a row is bad, 2 wrong arguments"""

LOAD_EPILOG = """\
example: python -m serving load --store valkey://localhost:6379/0 --from bundle/store.arrow
Loading adds to what the store has: fill an empty one. Doing the same load again changes nothing.
exit codes: 0 loaded, 1 the store or the files cannot be used, 2 wrong arguments"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, answer, print or write. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="Answer checkouts from a bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = _add_bundle_parser(
        commands, "recommend", "Print the six items to show after a checkout.", EPILOG
    )
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
    command.add_argument("--deadline-ms", type=float, default=100.0, help="default: 100")
    command.add_argument("--json", action="store_true", help="print the slate as JSON")
    command = _add_bundle_parser(
        commands, "batch", "Write the slates of all checkouts of a Parquet file.", BATCH_EPILOG
    )
    command.add_argument("--checkouts", type=Path, required=True, help="Parquet file with a row per checkout")
    command.add_argument("--out", type=Path, required=True, help="Parquet file to write, a row per checkout")
    command.add_argument(
        "--batch-size", type=int, default=BATCH_SIZE, help=f"rows answered in one go (default: {BATCH_SIZE})"
    )
    command.add_argument("--threads", type=int, help="batches answered side by side (default: one per core)")
    command.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help="write rows that make no checkout without items and with the reason, instead of stopping",
    )
    command = _add_parser(commands, "load", "Fill an event store.", LOAD_EPILOG)
    command.add_argument("--store", required=True, help="path of an embedded store, or redis://, valkey://")
    command.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        help="an exported store.arrow, or a folder with orders.parquet, events.parquet or both",
    )
    command.add_argument(
        "--max-events", type=int, default=MAX_EVENTS, help=f"newest kept by user (default: {MAX_EVENTS})"
    )
    command.add_argument(
        "--ttl-days", type=int, default=TTL // 86_400, help="until a server forgets; 0: never (default: 400)"
    )
    add_http_parser(commands)
    add_rollback_parser(commands)
    options = parser.parse_args(arguments)
    if "run" in options:
        return int(options.run(parser, options))
    return {"recommend": _recommend, "batch": _batch, "load": _load}[options.command](parser, options)


def _add_parser(commands: Any, name: str, what: str, epilog: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what[0].lower() + what[1:].rstrip("."),
        description=what,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def _add_bundle_parser(commands: Any, name: str, what: str, epilog: str) -> argparse.ArgumentParser:
    """A command with the arguments that those that answer have."""
    command = _add_parser(commands, name, what, epilog)
    command.add_argument("--bundle", default="bundle", help="bundle root or version folder (default: bundle)")
    command.add_argument(
        "--store",
        help="event store: a path, redis:// or valkey:// (default: store.arrow in the bundle root, if there)",
    )
    command.add_argument(
        "--ts",
        type=int,
        help="Unix seconds of a checkout that gives none (default: the end of the bundle's data)",
    )
    command.add_argument(
        "--revenue-weight",
        type=float,
        metavar="W",
        help="0 for most purchases to 1 for most revenue (default: as exported)",
    )
    return command


def _recommend(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        checkout = parse_checkout(options)
        if options.revenue_weight is not None:
            SlatePolicy(revenue_weight=options.revenue_weight)
    except ValueError as error:
        parser.error(str(error))  # exits with 2
    try:
        recommender = Recommender.load(options.bundle, open_cli_store(options))
    except (BundleError, OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if checkout.ts is None:
        # The demonstration's log ended years ago; as of now, everything in it would be old.
        checkout = parse_checkout(options, recommender.bundle.manifest["data"]["window"]["end"])
    slate = recommender.recommend(checkout, options.deadline_ms, options.revenue_weight)
    if options.json:
        print(json.dumps(asdict(slate), ensure_ascii=False, indent=2))
    else:
        for note in input_warnings(recommender, checkout):
            print(f"note: {note}", file=sys.stderr)
        print(format_slate(slate, checkout))
    return 0


def _batch(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    source, out = options.checkouts, options.out
    threads = options.threads if options.threads is not None else torch.get_num_threads()
    try:
        Checkout(None, [], options.ts)
        if options.revenue_weight is not None:
            SlatePolicy(revenue_weight=options.revenue_weight)
        if min(options.batch_size, threads) < 1:
            raise ValueError("--batch-size and --threads must be 1 or more")
        if not out.parent.is_dir() or out.is_dir():
            raise ValueError(f"--out {out}: expected a file in a folder that is there")
        if out.exists() and source.exists() and out.samefile(source):
            raise ValueError(f"--out {out}: it would replace the checkouts")
    except ValueError as error:
        parser.error(str(error))
    try:
        if unread := [
            name for name in pq.read_schema(source).names if name not in (*INPUT_SCHEMA, CHECKOUT_ID)
        ]:
            print(f"note: columns that are not read: {', '.join(unread)}", file=sys.stderr)
        recommender = Recommender.load(options.bundle, open_cli_store(options))
        if recommender.store is None:
            print("note: there is no event store: only the file's own history counts", file=sys.stderr)
        end = recommender.bundle.manifest["data"]["window"]["end"]
        ts = options.ts if options.ts is not None else end
        job = BatchJob(
            source, out, ts, options.revenue_weight, options.batch_size, threads, options.skip_bad_rows
        )
        progress = ProgressReporter()
        tiers = run_batch_job(recommender, job, progress)
    except (BundleError, OSError, ValueError, ImportError, pa.ArrowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    kinds = ", ".join(f"{count:,} {tier}" for tier, count in tiers.most_common())
    print(f"{out}: {progress.format_line(tiers.total())}; tiers: {kinds or 'none'}", file=sys.stderr)
    return 0


def _load(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.max_events < 1 or options.ttl_days < 0:
        parser.error("--max-events must be 1 or more, --ttl-days 0 or more")
    progress = ProgressReporter()
    try:
        # Nobody waits for an answer here, so a busy server gets its time.
        ttl = options.ttl_days * 86_400 or None
        store = open_store(options.store, max_events=options.max_events, write_timeout=30.0, ttl=ttl)
        done = bulk_load(store, options.source, progress)
        store.close()
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"loaded: {progress.format_line(done)}", file=sys.stderr)
    return 0


def parse_checkout(options: argparse.Namespace, ts: int | None = None) -> Checkout:
    """The checkout that the arguments describe. Raises ValueError if there can be no such checkout."""
    pairs = [pair.partition("=") for pair in options.context]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"--context {wrong[0]}: expected NAME=VALUE")
    return Checkout(
        user_id=options.user,
        basket=[Line(item_id) for item_id in parse_item_ids(options.items)],
        ts=options.ts if options.ts is not None else ts,
        context={name: value for name, _, value in pairs},
        exclude=parse_item_ids(options.exclude),
        categories=None if options.categories is None else parse_item_ids(options.categories),
    )


def parse_item_ids(text: str) -> list[str]:
    """Item ids from `a,b,c`."""
    return [item_id.strip() for item_id in text.split(",") if item_id.strip()]


def open_cli_store(options: argparse.Namespace) -> Store | None:
    """The store that was asked for, else the one in the bundle root. Raises as `open_store`."""
    if options.store:
        return open_store(options.store, create=False)
    bundle = Path(options.bundle)
    for folder in (bundle, bundle.parent):
        if (folder / "store.arrow").is_file():
            return open_store(folder / "store.arrow")
    return None


def input_warnings(recommender: Recommender, checkout: Checkout) -> list[str]:
    """What the answer could not take into account."""
    found = [
        f"item {line.item_id} is unknown"
        for line in checkout.basket
        if not recommender.bundle.item_rows.row(line.item_id)
    ]
    user, store = checkout.user_id, recommender.store
    if user is not None and store is None:
        found.append("there is no event store: answered without the user's history")
    elif user is not None and store is not None and not store.get(user).item_id:
        found.append(f"user {user} has no events in the store: answered as a new user")
    return found


def format_slate(slate: Slate, checkout: Checkout) -> str:
    """A slate for people."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(checkout.ts))
    lines = [
        f"user {checkout.user_id or '(guest)'}, {len(checkout.basket)} lines paid, {when}",
        f"{'':2} {'item':>10}  {'title':32} {'price':>7} {'p(click)':>8} {'p(purch)':>8} {'value':>7}  why",
    ]
    for place, item in enumerate(slate.items, start=1):
        why = ", ".join(SOURCE_REASONS[source] for source in item.sources)
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
