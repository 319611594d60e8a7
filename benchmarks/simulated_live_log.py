"""Weeks of a live shop for any bundle: orders and the impression log, with what a monitor must bear.

Weekends are larger and later, a few users make many of the orders, each keeps to favourite items and a
device, and days have whims of their own. What is shown is clicked and bought with the probabilities that are
logged; what users buy again by themselves comes on top. `Knobs` say what changes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serving.events.impression_log import SCHEMA
from serving.storage.bundle import Bundle

DAY, HOUR = 86_400, 3600
USERS, FAVOURITES_PER_USER, SLOTS = 4_000, 12, 6
WEEKDAY_FACTORS = (1.0, 0.95, 0.95, 1.0, 1.1, 1.5, 1.35)  # orders by weekday
DAY_EFFECT_STD = 0.02  # standard deviation of a day's factor on clicks
MAX_PURCHASE_DELAY = 14 * DAY  # after an impression, of a purchase


@dataclass(frozen=True)
class DayConfig:
    """What a day is like; the defaults are a quiet day's."""

    price_factor: float = 1.0  # factor
    extra_lines: float = 2.0  # of a basket, beside the first
    single_category_share: float = 0.0  # share of lines that come from one category alone
    phone_share: float = 0.0  # share of desktop users who order by phone
    new_user_share: float = 0.06
    unknown_item_share: float = 0.01
    unknown_value_share: float = 0.005
    click_logit_shift: float = 0.0  # on the logit of a click, and the models know it
    prediction_factor: float = 1.0  # factor on the probabilities that are logged
    click_factor: float = 1.0  # factor on the chance of a click
    fallback_share: float = 0.004
    single_category_slate_share: float = 0.0  # share of slates with items of one leaf category


class LiveShop:
    """The users of a shop with a bundle's items. Draws days one after the other.

    Args:
        per_day: orders of a plain weekday.
        seed: of users and days.
    """

    def __init__(self, bundle: Bundle, orders_per_day: int, seed: int = 0) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.bundle, self.orders_per_day = bundle, orders_per_day
        self.item_rows = np.flatnonzero(bundle.available)
        self.top_category = np.array([path.partition("/")[0] for path in bundle.category.to_pylist()], object)
        sales = 1 / (1 + rng.permutation(len(self.item_rows)).astype(float)) ** 0.7
        self.item_weights = sales / sales.sum()
        active = rng.pareto(2.0, USERS) + 0.3
        self.user_weights = active / active.sum()
        self.favourites = rng.choice(self.item_rows, (USERS, FAVOURITES_PER_USER), p=self.item_weights)
        self.user_logit = rng.normal(0, 0.5, USERS)  # of users, on the logit of a click
        self.item_logit = rng.normal(-1.6, 0.5, len(bundle.leaf))  # of items
        self.attribute_values = {
            one["name"]: np.array(one["values"], object) for one in bundle.manifest["features"]["context"]
        }
        self.user_attributes = {
            name: rng.integers(0, len(of), USERS) for name, of in self.attribute_values.items()
        }
        self.n_orders = 0

    def simulate_day(self, day: int, config: DayConfig) -> tuple[dict[str, Any], dict[str, Any]]:
        """Columns of a day's order lines and of the log's rows, with the feedback of later days."""
        rng, weekday = self.rng, (day + 3) % 7  # the first of January 1970 was a Thursday
        n = int(rng.poisson(self.orders_per_day * WEEKDAY_FACTORS[weekday]))
        user = rng.choice(USERS, n, p=self.user_weights)
        fresh = rng.random(n) < config.new_user_share
        names = np.array([f"u{u}" for u in user], object)
        names[fresh] = [f"n{self.n_orders + k}" for k in np.flatnonzero(fresh)]
        order = np.array([f"live{self.n_orders + k}" for k in range(n)], object)
        self.n_orders += n
        hour = np.clip(rng.normal(15 + 2 * (weekday >= 5), 4, n), 0, 23.99)
        ts = day * DAY + (hour * HOUR).astype(np.int64)

        size = 1 + rng.poisson(config.extra_lines, n)
        of = np.repeat(np.arange(n), size)
        item = self._sample_items(user[of])
        narrow = rng.random(len(of)) < config.single_category_share
        same = self.item_rows[self.top_category[self.item_rows] == self.top_category[self.item_rows[0]]]
        item[narrow] = rng.choice(same, int(narrow.sum()))
        first = np.unique(of * len(self.bundle.leaf) + item, return_index=True)[1]  # an item once an order
        of, item = of[first], item[first]
        ids = np.array(self.bundle.item_id.to_pylist(), object)
        item_id = ids[item]
        item_id[rng.random(len(of)) < config.unknown_item_share] = "not in the bundle"
        paid = self.bundle.price[item] * np.where(rng.random(len(of)) < 0.2, 0.9, 1.0) * config.price_factor
        lines = {
            "order_id": order[of], "user_id": names[of], "item_id": item_id, "ts": ts[of],
            "quantity": 1.0 + rng.poisson(0.2, len(of)), "price": np.maximum(np.round(paid, 2), 0.01),
        }  # fmt: skip
        for name, words in self.attribute_values.items():
            word = words[
                np.where(
                    rng.random(n) < 0.85, self.user_attributes[name][user], rng.integers(0, len(words), n)
                )
            ]
            if name == "device":
                word = np.where((word == "desktop") & (rng.random(n) < config.phone_share), "phone", word)
            word[rng.random(n) < config.unknown_value_share] = "a new word"
            lines[name] = word[of]
        return lines, self._simulate_impressions(order, names, user, ts, config)

    def _sample_items(self, user: NDArray) -> NDArray:
        """An item row for each user: mostly a favourite, else what is popular."""
        liked = self.favourites[user, self.rng.integers(0, FAVOURITES_PER_USER, len(user))]
        other = self.rng.choice(self.item_rows, len(user), p=self.item_weights)
        return np.where(self.rng.random(len(user)) < 0.7, liked, other)

    def _simulate_impressions(
        self, order: NDArray, names: NDArray, user: NDArray, ts: NDArray, config: DayConfig
    ) -> dict[str, Any]:
        """Slates after the orders, what is clicked within a day of them and bought within two weeks."""
        rng, n = self.rng, len(order)
        leaf = self.bundle.leaf
        item = np.stack([self._sample_items(user) for _ in range(SLOTS)], 1)  # [n, 6]
        alike = self.item_rows[leaf[self.item_rows] == np.bincount(leaf[self.item_rows]).argmax()]
        dull = rng.random(n) < config.single_category_slate_share
        item[dull] = rng.choice(alike, (int(dull.sum()), SLOTS))
        again = np.stack([(item[:, :k] == item[:, k : k + 1]).any(1) for k in range(SLOTS)], 1)
        click = 1 / (
            1 + np.exp(-(self.item_logit[item] + self.user_logit[user][:, None] + config.click_logit_shift))
        )
        purchase = click * (0.2 + 0.2 * (item % 7 == 0))
        plain = (rng.random(n) < config.fallback_share)[:, None] & np.ones(SLOTS, bool)
        chance = np.minimum(click * config.click_factor * np.exp(rng.normal(0, DAY_EFFECT_STD)), 1.0)
        clicked = rng.random((n, SLOTS)) < chance
        bought = clicked & (rng.random((n, SLOTS)) < purchase / click)
        price = self.bundle.price[item].astype(float)
        at = np.broadcast_to(ts[:, None], item.shape)
        click_at = at + np.minimum(rng.exponential(2 * HOUR, item.shape), DAY - 1).astype(np.int64)
        bought_at = np.minimum(
            click_at + rng.exponential(3 * DAY, item.shape).astype(np.int64), at + MAX_PURCHASE_DELAY
        )
        kept = ~again
        ids = np.array(self.bundle.item_id.to_pylist(), object)
        shown = {
            "request_id": np.repeat(np.char.add("r", order.astype(str)), SLOTS).reshape(item.shape),
            "user_id": np.repeat(names, SLOTS).reshape(item.shape),
            "order_id": np.repeat(order, SLOTS).reshape(item.shape),
            "item_id": ids[item], "ts": at, "kind": np.full(item.shape, "impression", object),
            "position": np.cumsum(kept, 1), "propensity": np.ones(item.shape),
            "p_click": np.where(plain, np.nan, np.minimum(click * config.prediction_factor, 1)),
            "p_purchase": np.where(plain, np.nan, np.minimum(purchase * config.prediction_factor, 1)),
            "expected_value": np.where(plain, np.nan, purchase * config.prediction_factor * price * 1.2),
            "tier": np.where(plain, "category", "ranked"),
            "bundle_version": np.full(item.shape, self.bundle.version, object),
        }  # fmt: skip
        parts = [{name: values[kept] for name, values in shown.items()}]
        for kind, when, which in (("click", click_at, clicked), ("purchase", bought_at, bought)):
            which = which & kept
            parts.append(
                {name: shown[name][which] for name in ("request_id", "item_id")}
                | {"ts": when[which], "kind": np.full(int(which.sum()), kind, object)}
                | ({"value": price[which]} if kind == "purchase" else {})
            )
        return _concat_columns(parts)


def write_log(
    shop: LiveShop, folder: Path, first_day: int, days: int, quiet_days: int, config: DayConfig
) -> Path:
    """`orders.parquet` and `events/` of so many days from day `first` (since 1970) on, all but the first
    `quiet` ones by `knobs`. Gives the folder."""
    made = [
        shop.simulate_day(first_day + day, DayConfig() if day < quiet_days else config) for day in range(days)
    ]
    (folder / "events").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(_concat_columns([lines for lines, _ in made])), folder / "orders.parquet")
    log = _concat_columns([rows for _, rows in made])
    arrays = [_to_array(log.get(f.name), f.type, len(log["ts"])) for f in SCHEMA]
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), folder / "events" / "log.parquet")
    return folder


def _to_array(values: NDArray | None, kind: pa.DataType, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, kind)
    return pa.array(values, from_pandas=True).cast(kind)  # NaN is null


def _concat_columns(parts: list[dict[str, Any]]) -> dict[str, NDArray]:
    """Columns one below the other; what a part lacks is null."""
    names = dict.fromkeys(name for part in parts for name in part)
    sizes = [len(part["ts"]) for part in parts]
    return {
        name: np.concatenate(
            [
                part[name] if name in part else np.full(size, _null_value(parts, name))
                for part, size in zip(parts, sizes, strict=True)
            ]
        )
        for name in names
    }


def _null_value(parts: list[dict[str, Any]], name: str) -> Any:
    found = next(part[name] for part in parts if name in part)
    return np.nan if found.dtype.kind in "if" else None
