"""Values of the client's calls, in addition to serving/checkout.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Required, TypedDict

Shown = Literal["yes", "no", "unknown"]  # whether a slate had the item of a feedback


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """The bundle that serves; docs/reference/http_conventions.md lists the fields."""

    version: str
    created: str
    data: Mapping[str, Any]
    dims: Mapping[str, int]
    metrics: Mapping[str, Any]
    slate: Mapping[str, Any]
    tasks: tuple[Mapping[str, Any], ...]
    arms: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service is ready, and the reason if not."""

    is_ready: bool
    bundle_version: str  # "" if it is not ready
    reason: str


@dataclass(frozen=True, slots=True)
class OrderLine:
    """The quantity of an item in an order."""

    item_id: str
    quantity: float


class ItemPatch(TypedDict, total=False):
    """New values of an item. An omitted field keeps its value; None restores the bundle's value."""

    item_id: Required[str]
    available: bool | None
    price: float | None
    title: str | None
    description: str | None
    category: str | None
    brand: str | None
    attributes: Mapping[str, str | float | None] | None
    vectors: Mapping[str, Sequence[float] | None] | None


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The result of an ItemPatch; docs/how_to/live_items.md lists the results."""

    item_id: str
    result: Literal["changed", "new", "unknown"]
    available: bool | None
    price: float | None
    waits: tuple[str, ...]  # fields that act from the next export on
    detail: str  # why the item is unknown


@dataclass(frozen=True, slots=True)
class LiveValue:
    """A live value of an item, and the time at which it was set."""

    value: Any
    ts: float  # Unix seconds (UTC)


@dataclass(frozen=True, slots=True)
class ServedItem:
    """The current state of an item; the values are None if they are unknown."""

    item_id: str
    source: Literal["bundle", "live", "unknown"]
    available: bool | None
    price: float | None
    title: str | None
    category: str | None
    live: Mapping[str, LiveValue]  # by field
    bundle_version: str


@dataclass(frozen=True, slots=True)
class RuleState:
    """A rule in force."""

    name: str
    source: Literal["file", "live"]
    rule: Mapping[str, Any]
    n_items: int  # available items of the bundle that it matches
    warnings: tuple[str, ...]  # conflicts, unknown names, no items


@dataclass(frozen=True, slots=True)
class RuleStates:
    """All rules of a service.

    Attributes:
        problems: reasons why some rules are not in force.
    """

    bundle_version: str
    rules: tuple[RuleState, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """The result of removing a user.

    Attributes:
        removed: place → kind of data → number of removed records.
        waiting: places that are not done, with the reason; repeating the removal completes them.
        notes: further places that hold data of the user.
    """

    removed: Mapping[str, Mapping[str, int]]
    waiting: tuple[str, ...]
    notes: tuple[str, ...]
