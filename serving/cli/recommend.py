"""`recommend`: print the slate of one checkout."""

import json
import math
import sys
import time
from dataclasses import asdict, dataclass

from ..checkout import Checkout, Line, Slate
from ..command_line import option
from ..recommender import Recommender
from .bundle_options import BundleOptions

SOURCE_REASONS = {
    "ann": "similar to the user's history",
    "buy_again": "bought before",
    "co_purchase": "bought with the basket",
    "category": "bestseller of its category",
    "popularity": "popular",
    "recency": "new",
    "ease": "bought by similar users",
    "transitions": "bought after the latest items",
}
REASONS_WITHOUT_HISTORY = {"ann": "similar to the basket", "transitions": "bought after the basket"}


@dataclass(frozen=True, kw_only=True)
class RecommendOptions(BundleOptions):
    """Print the six items to show after a checkout.

    example: %(prog)s --bundle bundle --user 900 --items 1095275,9878513
    exit codes: 0 answered, 1 the bundle or store cannot serve, 2 wrong arguments
    """

    user: str | None = option(None, "user id (default: a guest)")
    items: str = option("", "ids of the items just paid, separated by commas")
    exclude: str = option("", "item ids that must not be shown, separated by commas")
    categories: str | None = option(
        None, "category paths (a or a/b) that limit the slate, separated by commas (default: all)"
    )
    context: tuple[str, ...] = option((), "attribute of the order; repeatable", metavar="NAME=VALUE")
    deadline_ms: float = option(100.0, "milliseconds for the answer")
    json: bool = option(False, "print the slate as JSON")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.checkout(self.ts)

    def checkout(self, ts: int | None) -> Checkout:
        """The checkout that the options describe. Raises ValueError for an invalid one."""
        pairs = [pair.partition("=") for pair in self.context]
        for name, equals_sign, _ in pairs:
            if not equals_sign:
                raise ValueError(f"--context {name}: expected NAME=VALUE")
        return Checkout(
            user_id=self.user,
            basket=[Line(item_id) for item_id in split_ids(self.items)],
            ts=ts,
            context={name: value for name, _, value in pairs},
            exclude=split_ids(self.exclude),
            categories=None if self.categories is None else split_ids(self.categories),
        )


def recommend(options: RecommendOptions) -> int:
    """Print a slate. Returns the exit code."""
    recommender = options.load_recommender()
    checkout = options.checkout(options.default_ts(recommender))
    slate = recommender.recommend(checkout, options.deadline_ms, options.revenue_weight)
    if options.json:
        print(json.dumps(asdict(slate), ensure_ascii=False, indent=2))
    else:
        for note in input_warnings(recommender, checkout):
            print(f"note: {note}", file=sys.stderr)
        print(format_slate(slate, checkout, has_history(recommender, checkout.user_id)))
    return 0


def split_ids(text: str) -> list[str]:
    """Ids from `a,b,c`."""
    return [item_id.strip() for item_id in text.split(",") if item_id.strip()]


def input_warnings(recommender: Recommender, checkout: Checkout) -> list[str]:
    """Warnings about ids and values of the checkout that the bundle does not know."""
    warnings = [
        f"item {line.item_id} is unknown"
        for line in checkout.basket
        if not recommender.bundle.item_rows.row(line.item_id)
    ]
    for path, near in recommender.eligibility_filter.unknown_categories(checkout).items():
        warnings.append(f"category {path} is unknown" + (f"; near: {', '.join(near)}" if near else ""))
    user = checkout.user_id
    if user is not None and recommender.store is None:
        warnings.append("there is no event store: answered without the user's history")
    elif user is not None and not has_history(recommender, user):
        warnings.append(f"user {user} has no events in the store: answered as a new user")
    return warnings


def has_history(recommender: Recommender, user: str | None) -> bool:
    """Whether the store has events of a user; a guest has none."""
    return user is not None and recommender.store is not None and bool(recommender.store.get(user).item_id)


def format_slate(slate: Slate, checkout: Checkout, with_history: bool = True) -> str:
    """A slate as a text table. The column `why` depends on whether the user has a history."""
    reasons = SOURCE_REASONS if with_history else SOURCE_REASONS | REASONS_WITHOUT_HISTORY
    n_lines = f"{len(checkout.basket)} line{'s' * (len(checkout.basket) != 1)}"
    paid_at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(checkout.ts))
    names = [*dict.fromkeys(name for item in slate.items for name in item.further_predictions())]
    further_header = "".join(f" {name[:10]:>{_width(name)}}" for name in names)
    lines = [
        f"user {checkout.user_id or '(guest)'}, {n_lines} paid, {paid_at}",
        f"{'':2} {'item':>10}  {'title':32} {'price':>7} {'p(click)':>8} {'p(purch)':>8} {'value':>7}"
        f"{further_header}  why",
    ]
    for position, item in enumerate(slate.items, start=1):
        why = ", ".join(reasons.get(source, source) for source in item.sources)
        predictions = f"{_number(item.click):>8} {_number(item.purchase):>8} {_number(item.value):>7}"
        values = item.further_predictions()
        further = "".join(f" {_number(values.get(name)):>{_width(name)}}" for name in names)
        lines.append(
            f"{position:2} {item.item_id:>10}  {item.title[:32]:32} {item.price:7.2f} {predictions}{further}"
            f"  {why}"
        )
    total_ms = slate.timings["total"]
    stages = ", ".join(f"{stage} {ms:.2f}" for stage, ms in slate.timings.items() if stage != "total")
    lines.append(f"{total_ms:.2f} ms ({stages}), tier {slate.tier}, bundle {slate.bundle_version}")
    if slate.reason:
        lines.append(f"reason: {slate.reason}")
    return "\n".join(lines)


def _width(name: str) -> int:
    return min(max(len(name), 7), 10)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
