"""What the client takes and returns beside the values of serving/checkout.py."""

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
    """Whether the service has a bundle, and why not."""

    is_ready: bool
    bundle_version: str  # "" if it is not ready
    reason: str


@dataclass(frozen=True, slots=True)
class OrderLine:
    """How many of an item an order holds."""

    item_id: str
    quantity: float


class ItemPatch(TypedDict, total=False):
    """New values of an item. A field that is left out stays; None brings back the bundle's value."""

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
    """What became of an ItemPatch: docs/how_to/live_items.md has the results."""

    item_id: str
    result: Literal["changed", "new", "unknown"]
    available: bool | None
    price: float | None
    waits: tuple[str, ...]  # fields that act from the next export on
    detail: str  # why the item is unknown


@dataclass(frozen=True, slots=True)
class LiveValue:
    """A live value of an item, and when it was set."""

    value: Any
    ts: float  # Unix seconds (UTC)


@dataclass(frozen=True, slots=True)
class ServedItem:
    """An item as it serves now; the values are None for an unknown one."""

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
        problems: why some rules that were written are not in force.
    """

    bundle_version: str
    rules: tuple[RuleState, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """What the removal of a user did.

    Attributes:
        removed: place → number of what was removed, by what it is.
        waiting: what is left and why; the same removal done again completes it.
        notes: what else holds the user.
    """

    removed: Mapping[str, Mapping[str, int]]
    waiting: tuple[str, ...]
    notes: tuple[str, ...]
