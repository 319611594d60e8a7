"""Input and output values of a recommendation. Each value is validated when it is created."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

HISTORY_KINDS = ("purchase", "click", "cart")
SECONDS_PER_DAY = 86_400
MAX_CLOCK_SKEW = 300  # seconds by which the clock that dates feedback may be behind
MAX_TS = 4_102_444_800  # the year 2100: larger numbers are milliseconds
EVENT_KIND = re.compile("[A-Za-z][A-Za-z0-9_-]*")
SLATE_KINDS = ("impression", "ghost")  # events of a slate: its items were shown, or held back
ITEM_TASKS = ("click", "purchase", "value")  # tasks that have a field of their own in Item
DEFAULT_LANGUAGE = "en"  # of the reasons of a slate
MAX_NUMBER = 1e12  # beyond it float32 sums lose smaller terms


@dataclass(frozen=True, slots=True)
class Line:
    """One line just paid. Without a price, the item's usual price counts. Raises ValueError if invalid."""

    item_id: str
    quantity: float = 1.0
    price: float | None = None  # unit price

    def __post_init__(self) -> None:
        _check_text("Line.item_id", self.item_id)
        _check_number("Line.quantity", self.quantity)
        if self.quantity <= 0:
            raise ValueError(
                f"Line.quantity is {self.quantity}: it must be above 0 (a return is not a line of a checkout)"
            )
        if self.price is not None:
            _check_number("Line.price", self.price)
            if self.price < 0:
                raise ValueError(f"Line.price is {self.price}: it must be 0 or more")


@dataclass(frozen=True, slots=True)
class Event:
    """One earlier purchase, click or cart event of the user. Raises ValueError if invalid."""

    item_id: str
    ts: int  # Unix seconds (UTC)
    kind: str = "purchase"
    quantity: float = 1.0
    price: float | None = None  # unit price paid; None: the item's usual price if purchased, else 0

    def __post_init__(self) -> None:
        _check_text("Event.item_id", self.item_id)
        _check_timestamp("Event.ts", self.ts)
        if self.kind not in HISTORY_KINDS:
            raise ValueError(f"Event.kind is {self.kind!r}: expected one of {', '.join(HISTORY_KINDS)}")
        _check_number("Event.quantity", self.quantity)
        if self.quantity <= 0:
            raise ValueError(f"Event.quantity is {self.quantity}: it must be above 0")
        if self.price is not None:
            _check_number("Event.price", self.price)
            if self.price < 0:
                raise ValueError(f"Event.price is {self.price}: it must be 0 or more")


@dataclass(frozen=True, slots=True)
class Checkout:
    """A completed order, for which six more items are recommended.

    Items, attributes and values that the bundle lacks count as unknown and do not raise. Raises ValueError
    for values of the wrong type or out of range.

    Args:
        user_id: None for a guest.
        basket: the lines just paid.
        ts: Unix seconds (UTC) of the checkout; None for now.
        history: the user's earlier events in any order; events at or after `ts` are ignored. None reads the
            history from the recommender's store.
        context: attributes of the order (store, device, ...). Leave out missing attributes.
        profile: attributes of the user, which override the attributes in the store.
        exclude: item ids that must not be shown.
        categories: category paths (a or a/b). The slate shows only items of these paths and of all paths
            below them; None for all.
        order_id: the shop's id of the order. The impression log records it. If the store already has this
            order's lines, they count as the basket and not as history.
        language: the language of the reasons' texts, such as en, de or de-AT; English for a language without
            texts.
    """

    user_id: str | None
    basket: Sequence[Line]
    ts: int | None = None
    history: Sequence[Event] | None = None
    context: Mapping[str, str | float] = field(default_factory=dict)
    profile: Mapping[str, str | float] = field(default_factory=dict)
    exclude: Collection[str] = ()
    categories: Collection[str] | None = None
    order_id: str | None = None
    language: str = DEFAULT_LANGUAGE

    def __post_init__(self) -> None:
        if self.user_id is not None:
            _check_text("Checkout.user_id", self.user_id)
        if self.ts is not None:
            _check_timestamp("Checkout.ts", self.ts)
        _check_elements("Checkout.basket", self.basket, Line)
        if self.history is not None:
            _check_elements("Checkout.history", self.history, Event)
        _check_attributes("Checkout.context", self.context)
        _check_attributes("Checkout.profile", self.profile)
        _check_texts("Checkout.exclude", self.exclude)
        if self.categories is not None:
            _check_texts("Checkout.categories", self.categories)
        if self.order_id is not None:
            _check_text("Checkout.order_id", self.order_id)
        _check_text("Checkout.language", self.language)


@dataclass(frozen=True, slots=True)
class Reason:
    """The reason why an item is shown, for the shopper. docs/how_to/show_reasons.md lists the codes."""

    code: str  # co_purchase, buy_again, category, ...
    params: Mapping[str, str] = field(hash=False)  # fields of the text: item, category
    text: str  # words for a page, in the language of the request


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """A rule of the shop that was in force for a slate, and the rule's effects."""

    rule: str
    effect: str


@dataclass(frozen=True, slots=True)
class Item:
    """One slot of a slate. Predictions are None if the tier makes none.

    click, purchase and value are also None if the bundle has no task of that name.
    """

    item_id: str
    title: str
    category: str  # path a/b/c
    price: float  # usual unit price, 0 for unknown
    click: float | None  # probability
    purchase: float | None  # probability of click and purchase, at most `click`
    value: float | None  # expected spend: p(purchase) × expected spend of a purchase
    sources: tuple[str, ...]  # the candidate sources or fallback lists that proposed it
    propensity: float = 1.0  # probability that this request shows this item here; below 1 where it explores
    # By task, what the objective reads: probabilities of binary tasks, means of amounts and counts.
    predictions: Mapping[str, float] | None = field(default=None, hash=False)
    reason: Reason | None = None
    rules: tuple[str, ...] = ()  # the shop's rules that pinned it, boosted it or gave it its slot

    def further_predictions(self) -> dict[str, float]:
        """The predictions of tasks other than click, purchase and value."""
        return {name: value for name, value in (self.predictions or {}).items() if name not in ITEM_TASKS}


@dataclass(frozen=True, slots=True)
class Slate:
    """The items to show, in order."""

    items: tuple[Item, ...]
    tier: str  # of the first item: ranked, retrieval, cached, category or popularity
    reason: str  # why a better tier did not answer; "" if all went well
    timings: Mapping[str, float]  # milliseconds per stage, and `total`
    request_id: str
    bundle_version: str
    withheld: bool = False  # by an experiment: nothing is shown, `items` are what would have been
    rules: tuple[RuleEffect, ...] = ()  # the shop's rules in force, in the order of their names


@dataclass(frozen=True, slots=True)
class Feedback:
    """An action of a shopper on a recommended item. Raises ValueError if invalid.

    Args:
        kind: click, cart, purchase or another kind of the shop's events, such as wishlist.
        request_id: the slate's request id. None if the shop does not have it; `user_id` is then required.
        ts: Unix seconds (UTC).
        value: amount spent on the item, for a purchase.
    """

    kind: str
    request_id: str | None
    item_id: str
    ts: int
    user_id: str | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        is_kind = isinstance(self.kind, str) and EVENT_KIND.fullmatch(self.kind)
        if not is_kind or self.kind in SLATE_KINDS:
            raise ValueError(
                f"Feedback.kind is {self.kind!r}: expected {', '.join(HISTORY_KINDS)} or another kind of"
                " event: letters, digits, - and _, a letter first"
            )
        if self.request_id is None and self.user_id is None:
            raise ValueError("Feedback.request_id and Feedback.user_id are None: one of them must be given")
        for name in ("request_id", "user_id"):
            if getattr(self, name) is not None:
                _check_text(f"Feedback.{name}", getattr(self, name))
        _check_text("Feedback.item_id", self.item_id)
        _check_timestamp("Feedback.ts", self.ts)
        if self.value is not None:
            _check_number("Feedback.value", self.value)
            if self.value < 0:
                raise ValueError(f"Feedback.value is {self.value}: it must be 0 or more")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}: expected a string that is not empty")


def _check_texts(name: str, values: object) -> None:
    if isinstance(values, str | bytes) or not isinstance(values, Collection):
        raise ValueError(f"{name} is {values!r}: expected a collection of strings")
    for value in values:
        _check_text(f"a value in {name}", value)


def _check_number(name: str, value: object) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or abs(value) > MAX_NUMBER
    ):
        raise ValueError(f"{name} is {value!r}: expected a finite number of at most {MAX_NUMBER:g}")


def _check_timestamp(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_TS:
        raise ValueError(f"{name} is {value!r}: expected Unix seconds (UTC) as an int, not milliseconds")


def _check_elements(name: str, values: object, kind: type) -> None:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise ValueError(f"{name} is a {type(values).__name__}: expected a sequence of {kind.__name__}")
    for position, value in enumerate(values):
        if not isinstance(value, kind):
            raise ValueError(f"{name}[{position}] is {value!r}: expected a {kind.__name__}")


def _check_attributes(name: str, values: object) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} is a {type(values).__name__}: expected a mapping of names to values")
    for key, value in values.items():
        _check_text(f"a key of {name}", key)
        if not isinstance(value, str):
            _check_number(f"{name}[{key!r}]", value)
