"""Simulated weeks of a live shop for any bundle: orders and the impression log, with natural variation.

Weekends have more and later orders. A few users make many of the orders. Each user has favourite items and a
device. Every day has a random effect. Items are clicked and bought with the logged probabilities. Orders
without a slate are added. `DayConfig` plants shifts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.schema import SECONDS_PER_DAY
from serving.events.impression_log import SCHEMA
from serving.storage.bundle import Bundle

SECONDS_PER_HOUR = 3600
USERS, FAVOURITES_PER_USER, SLOTS = 4_000, 12, 6
WEEKDAY_FACTORS = (1.0, 0.95, 0.95, 1.0, 1.1, 1.5, 1.35)  # orders by weekday
DAY_EFFECT_STD = 0.02  # standard deviation of a day's factor on clicks
MAX_PURCHASE_DELAY = 14 * SECONDS_PER_DAY  # after the impression


@dataclass(frozen=True)
class DayConfig:
    """The distribution of a day; the defaults describe a quiet day."""

    price_factor: float = 1.0
    extra_lines: float = 2.0  # mean lines of a basket after the first
    single_category_share: float = 0.0  # of lines, from one category
    phone_share: float = 0.0  # of desktop users, who order by phone
    new_user_share: float = 0.06
    unknown_item_share: float = 0.01
    unknown_value_share: float = 0.005
    click_logit_shift: float = 0.0  # of the true and of the logged probability
    prediction_factor: float = 1.0  # on the logged probabilities
    click_factor: float = 1.0  # on the true probability of a click
    fallback_share: float = 0.004
    single_category_slate_share: float = 0.0  # of slates, with items of one leaf category


class LogDays(NamedTuple):
    """The days of a log, as days since 1970."""

    first_day: int
    n_days: int
    n_quiet: int  # days at the start with the default DayConfig


class OrderColumns(NamedTuple):
    """The n orders of a day."""

    order_id: NDArray  # [n] str
    user_id: NDArray  # [n] str; new users have ids of their own
    user: NDArray  # [n] user numbers
    ts: NDArray  # [n] Unix seconds


class LiveShop:
    """The users of a shop with a bundle's items. Simulates days one after the other.

    Args:
        orders_per_day: mean number of orders on a Monday.
        seed: seed of users and days.
    """

    def __init__(self, bundle: Bundle, orders_per_day: int, seed: int = 0) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.bundle, self.orders_per_day = bundle, orders_per_day
        self.item_ids = np.array(bundle.item_id.to_pylist(), object)
        self.item_rows = np.flatnonzero(bundle.available)
        self.top_category = np.array([path.partition("/")[0] for path in bundle.category.to_pylist()], object)
        weights = 1 / (1 + rng.permutation(len(self.item_rows)).astype(float)) ** 0.7
        self.item_weights = weights / weights.sum()
        activity = rng.pareto(2.0, USERS) + 0.3
        self.user_weights = activity / activity.sum()
        self.favourites = rng.choice(self.item_rows, (USERS, FAVOURITES_PER_USER), p=self.item_weights)
        self.user_logit = rng.normal(0, 0.5, USERS)  # of users, on the logit of a click
        self.item_logit = rng.normal(-1.6, 0.5, len(bundle.leaf))  # of items
        self.attribute_values = {
            attribute["name"]: np.array(attribute["values"], object)
            for attribute in bundle.manifest["features"]["context"]
        }
        self.user_attributes = {
            name: rng.integers(0, len(values), USERS) for name, values in self.attribute_values.items()
        }
        self.n_orders = 0

    def simulate_day(self, day: int, config: DayConfig) -> tuple[dict[str, Any], dict[str, Any]]:
        """The columns of a day's order lines and log rows, with feedback that arrives on later days."""
        orders = self._simulate_orders(day, config)
        lines = self._simulate_lines(orders, config)
        return lines, self._simulate_impressions(orders, config)

    def _simulate_orders(self, day: int, config: DayConfig) -> OrderColumns:
        rng, weekday = self.rng, (day + 3) % 7  # 1 January 1970 was a Thursday
        n = int(rng.poisson(self.orders_per_day * WEEKDAY_FACTORS[weekday]))
        user = rng.choice(USERS, n, p=self.user_weights)
        is_new = rng.random(n) < config.new_user_share
        user_id = np.array([f"u{number}" for number in user], object)
        user_id[is_new] = [f"n{self.n_orders + k}" for k in np.flatnonzero(is_new)]
        order_id = np.array([f"live{self.n_orders + k}" for k in range(n)], object)
        self.n_orders += n
        hour = np.clip(rng.normal(15 + 2 * (weekday >= 5), 4, n), 0, 23.99)
        ts = day * SECONDS_PER_DAY + (hour * SECONDS_PER_HOUR).astype(np.int64)
        return OrderColumns(order_id, user_id, user, ts)

    def _simulate_lines(self, orders: OrderColumns, config: DayConfig) -> dict[str, Any]:
        rng, n = self.rng, len(orders.ts)
        basket_size = 1 + rng.poisson(config.extra_lines, n)
        order_row = np.repeat(np.arange(n), basket_size)
        item = self._sample_items(orders.user[order_row])
        is_narrow = rng.random(len(order_row)) < config.single_category_share
        top_category = self.top_category[self.item_rows]
        category_rows = self.item_rows[top_category == top_category[0]]
        item[is_narrow] = rng.choice(category_rows, int(is_narrow.sum()))
        # An item occurs once in an order.
        first_rows = np.unique(order_row * len(self.bundle.leaf) + item, return_index=True)[1]
        order_row, item = order_row[first_rows], item[first_rows]
        n_lines = len(order_row)
        item_id = self.item_ids[item]
        item_id[rng.random(n_lines) < config.unknown_item_share] = "not in the bundle"
        discount = np.where(rng.random(n_lines) < 0.2, 0.9, 1.0)
        price = self.bundle.price[item] * discount * config.price_factor
        lines = {
            "order_id": orders.order_id[order_row], "user_id": orders.user_id[order_row],
            "item_id": item_id, "ts": orders.ts[order_row], "quantity": 1.0 + rng.poisson(0.2, n_lines),
            "price": np.maximum(np.round(price, 2), 0.01),
        }  # fmt: skip
        for name, values in self.attribute_values.items():
            lines[name] = self._simulate_attribute(name, values, orders.user, config)[order_row]
        return lines

    def _simulate_attribute(self, name: str, values: NDArray, user: NDArray, config: DayConfig) -> NDArray:
        """A context value of each order: mostly the user's usual value, else a random value."""
        rng, n = self.rng, len(user)
        is_own = rng.random(n) < 0.85
        value = values[np.where(is_own, self.user_attributes[name][user], rng.integers(0, len(values), n))]
        if name == "device":
            value = np.where((value == "desktop") & (rng.random(n) < config.phone_share), "phone", value)
        value[rng.random(n) < config.unknown_value_share] = "a new word"
        return value

    def _sample_items(self, user: NDArray) -> NDArray:
        """An item row for each user: mostly a favourite, else a popular item."""
        favourite = self.favourites[user, self.rng.integers(0, FAVOURITES_PER_USER, len(user))]
        popular = self.rng.choice(self.item_rows, len(user), p=self.item_weights)
        return np.where(self.rng.random(len(user)) < 0.7, favourite, popular)

    def _simulate_impressions(self, orders: OrderColumns, config: DayConfig) -> dict[str, Any]:
        """Slates after the orders, with clicks within a day and purchases within two weeks."""
        rng, n = self.rng, len(orders.ts)
        item = self._sample_slates(orders.user, config)  # [n, SLOTS]
        is_duplicate = np.stack([(item[:, :k] == item[:, k : k + 1]).any(1) for k in range(SLOTS)], 1)
        logit = self.item_logit[item] + self.user_logit[orders.user][:, None] + config.click_logit_shift
        click = 1 / (1 + np.exp(-logit))
        purchase = click * (0.2 + 0.2 * (item % 7 == 0))
        is_fallback = (rng.random(n) < config.fallback_share)[:, None] & np.ones(SLOTS, bool)
        day_effect = np.exp(rng.normal(0, DAY_EFFECT_STD))
        true_click = np.minimum(click * config.click_factor * day_effect, 1.0)
        clicked = rng.random((n, SLOTS)) < true_click
        purchased = clicked & (rng.random((n, SLOTS)) < purchase / click)
        price = self.bundle.price[item].astype(float)
        ts = np.broadcast_to(orders.ts[:, None], item.shape)
        click_delay = np.minimum(rng.exponential(2 * SECONDS_PER_HOUR, item.shape), SECONDS_PER_DAY - 1)
        click_ts = ts + click_delay.astype(np.int64)
        purchase_delay = rng.exponential(3 * SECONDS_PER_DAY, item.shape).astype(np.int64)
        purchase_ts = np.minimum(click_ts + purchase_delay, ts + MAX_PURCHASE_DELAY)

        def per_slot(values: NDArray) -> NDArray:
            return np.repeat(values, SLOTS).reshape(item.shape)

        def unless_fallback(prediction: NDArray) -> NDArray:
            return np.where(is_fallback, np.nan, prediction)

        is_shown = ~is_duplicate
        impressions = {
            "request_id": per_slot(np.char.add("r", orders.order_id.astype(str))),
            "user_id": per_slot(orders.user_id), "order_id": per_slot(orders.order_id),
            "item_id": self.item_ids[item], "ts": ts, "kind": np.full(item.shape, "impression", object),
            "position": np.cumsum(is_shown, 1), "propensity": np.ones(item.shape),
            "p_click": unless_fallback(np.minimum(click * config.prediction_factor, 1)),
            "p_purchase": unless_fallback(np.minimum(purchase * config.prediction_factor, 1)),
            "expected_value": unless_fallback(purchase * config.prediction_factor * price * 1.2),
            "tier": np.where(is_fallback, "category", "ranked"),
            "bundle_version": np.full(item.shape, self.bundle.version, object),
        }  # fmt: skip
        parts = [{name: values[is_shown] for name, values in impressions.items()}]
        for kind, kind_ts, happened in (
            ("click", click_ts, clicked & is_shown),
            ("purchase", purchase_ts, purchased & is_shown),
        ):
            part = {name: impressions[name][happened] for name in ("request_id", "item_id")}
            part |= {"ts": kind_ts[happened], "kind": np.full(int(happened.sum()), kind, object)}
            parts.append(part | ({"value": price[happened]} if kind == "purchase" else {}))
        return _concat_columns(parts)

    def _sample_slates(self, user: NDArray, config: DayConfig) -> NDArray:
        """Item rows [n, SLOTS]; an item may occur twice. Some slates are of the largest leaf category."""
        item = np.stack([self._sample_items(user) for _ in range(SLOTS)], 1)
        leaf = self.bundle.leaf[self.item_rows]
        leaf_rows = self.item_rows[leaf == np.bincount(leaf).argmax()]
        is_narrow = self.rng.random(len(user)) < config.single_category_slate_share
        item[is_narrow] = self.rng.choice(leaf_rows, (int(is_narrow.sum()), SLOTS))
        return item


def write_log(shop: LiveShop, folder: Path, days: LogDays, config: DayConfig) -> Path:
    """Write `orders.parquet` and `events/`; return the folder. `config` applies after the quiet days."""
    simulated = [
        shop.simulate_day(days.first_day + day, DayConfig() if day < days.n_quiet else config)
        for day in range(days.n_days)
    ]
    (folder / "events").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(_concat_columns([lines for lines, _ in simulated])), folder / "orders.parquet")
    log = _concat_columns([rows for _, rows in simulated])
    arrays = [_to_array(log.get(field.name), field.type, len(log["ts"])) for field in SCHEMA]
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), folder / "events" / "log.parquet")
    return folder


def _to_array(values: NDArray | None, data_type: pa.DataType, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, data_type)
    return pa.array(values, from_pandas=True).cast(data_type)  # NaN becomes null


def _concat_columns(parts: list[dict[str, Any]]) -> dict[str, NDArray]:
    """The rows of all parts in one table; a column that a part lacks is null there."""
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
    column = next(part[name] for part in parts if name in part)
    return np.nan if column.dtype.kind in "if" else None
