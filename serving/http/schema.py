"""Requests and responses as pydantic models. Converts JSON to the values of serving/checkout.py, and back.

The ranges equal those of serving/checkout.py; a property test compares them. Nothing is converted: a number
in quotes and an unknown field are errors.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from ..checkout import MAX_NUMBER, MAX_TS, Checkout, Event, Item, Line, Slate
from ..recommender import Recommender
from ..stores.base import purchase_events
from .problems import ProblemError

ModelT = TypeVar("ModelT", bound=BaseModel)
MAX_REPORTED_ERRORS = 20  # wrong fields that an error names
ITEM_FIELDS = Item.__slots__  # read by name, because dataclasses.asdict copies: 0.07 ms a slate
STRICT = ConfigDict(extra="forbid", strict=True)

Id = Annotated[str, Field(min_length=1)]
UnixSeconds = Annotated[
    int,
    Field(ge=0, lt=MAX_TS, description="Unix seconds (UTC), not milliseconds"),
    # 5.0 is an integer in JSON Schema.
    BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
]
Quantity = Annotated[float, Field(gt=0, le=MAX_NUMBER, allow_inf_nan=False)]
Money = Annotated[float, Field(ge=0, le=MAX_NUMBER, allow_inf_nan=False)]
AttributeValue = str | Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
EventKind = Literal["purchase", "click", "cart"]
TS_DESCRIPTION = "Unix seconds (UTC); null for now"


def _required_field(name: str, **others: JsonDict) -> JsonDict:
    return {"required": [name], "properties": {name: {"type": "string"}, **others}}


class LineIn(BaseModel):
    """A line just paid."""

    model_config = STRICT
    item_id: Id
    quantity: Quantity = 1.0
    price: Money | None = Field(None, description="unit price; null for the item's usual one")


class EventIn(BaseModel):
    """An earlier event of the user."""

    model_config = STRICT
    item_id: Id
    ts: UnixSeconds
    kind: EventKind = "purchase"
    quantity: Quantity = 1.0
    price: Money | None = Field(None, description="unit price paid; null for the item's usual one")


class RecommendationIn(BaseModel):
    """A checkout for which six more items are recommended."""

    model_config = STRICT
    user_id: Id | None = Field(None, description="null for a guest")
    basket: list[LineIn] = Field(description="the lines just paid")
    ts: UnixSeconds | None = Field(None, description=TS_DESCRIPTION)
    history: list[EventIn] | None = Field(
        None, description="the user's earlier events; null to read the store, [] for none"
    )
    context: dict[Id, AttributeValue] = Field(
        {}, description="attributes of the order: device, country, store, …"
    )
    profile: dict[Id, AttributeValue] = Field(
        {}, description="attributes of the user; they override the store's"
    )
    exclude: list[Id] = Field([], description="item ids that must not be shown")
    categories: list[Id] | None = Field(None, description="category paths (a or a/b) to stay within")
    order_id: Id | None = Field(None, description="id of the order just paid; the impression log carries it")
    language: Id = Field("en", description="of the reasons' texts: en, de, or another that the shop has")


class CheckoutIn(BaseModel):
    """A checkout to record."""

    model_config = STRICT
    user_id: Id
    basket: list[LineIn] = Field(min_length=1, description="the lines just paid")
    ts: UnixSeconds | None = Field(None, description=TS_DESCRIPTION)
    profile: dict[Id, AttributeValue] = Field({}, description="attributes of the user")
    order_id: Id | None = Field(
        None, description="sent again with other lines it replaces the order's; with the same it counts once"
    )


class FeedbackIn(BaseModel):
    """A shopper's action on an item of a slate."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "anyOf": [
                _required_field("request_id"),
                _required_field("user_id", kind={"not": {"const": "viewed"}}),
            ]
        }
    )
    kind: Id = Field(
        description="click, cart, purchase, viewed (the slate was really on screen; `item_id` is any of its"
        " items) or another kind of event that a task of the bundle predicts",
    )
    request_id: Id | None = Field(
        None, description="of the slate; required without user_id, and for kind viewed"
    )
    item_id: Id
    ts: UnixSeconds | None = Field(None, description=TS_DESCRIPTION)
    user_id: Id | None = Field(None, description="lets a click count in the user's next request")
    value: Money | None = Field(None, description="money spent on the item by a purchase")
    order_id: Id | None = Field(None, description="of the checkout that asked for the slate; for kind viewed")


class ReasonOut(BaseModel):
    """The reason why an item is shown."""

    code: str = Field(description="as in docs/how_to/show_reasons.md: co_purchase, buy_again, category, …")
    params: dict[str, str] = Field(description="fields of the text: item, category")
    text: str = Field(description="words for the page, in the language of the request")


class RuleEffectOut(BaseModel):
    """A rule of the shop that was in force."""

    rule: str
    effect: str = Field(description="what it did to the slate")


class ItemOut(BaseModel):
    """One slot of a slate. Tiers without models give null predictions."""

    position: int = Field(description="1 for the first")
    item_id: str
    title: str
    category: str
    price: float = Field(description="usual unit price, 0 for unknown")
    click: float | None = Field(description="probability; null also without such a task, as the next two")
    purchase: float | None = Field(description="probability of click and purchase")
    value: float | None = Field(description="expected spend")
    predictions: dict[str, float] | None = Field(
        description="by task, what the objective reads: probabilities, and means of amounts and counts"
    )
    sources: list[str]
    propensity: float = Field(description="chance that this request shows this item here")
    reason: ReasonOut
    rules: list[str] = Field(description="the shop's rules that pinned it, boosted it or gave it its slot")


class SlateOut(BaseModel):
    """Six items to show, in order; fewer if too few items are eligible, none if the slate is withheld."""

    request_id: str = Field(description="send it with feedback")
    bundle_version: str
    tier: Literal["ranked", "retrieval", "cached", "category", "popularity"]
    reason: str = Field(description="why a stage was skipped or failed; empty otherwise")
    timings: dict[str, float] = Field(description="milliseconds per stage; queue: waiting for a thread")
    withheld: bool = Field(description="an experiment holds this slate back: show no slot")
    items: list[ItemOut]
    rules: list[RuleEffectOut] = Field(description="the shop's rules in force")


class FieldError(BaseModel):
    field: str
    pointer: str
    detail: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


def parse_body(model: type[ModelT], body: bytes) -> ModelT:
    """The body as `model`. Raises ProblemError (400, 422) that names the wrong fields."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        if errors[0]["type"] == "json_invalid":
            raise ProblemError(400, f"the body is not JSON: {errors[0]['ctx']['error']}") from None
        by_pointer: dict[str, dict[str, str]] = {}
        for detail in errors:
            field_error = _field_error(model, detail)
            by_pointer.setdefault(field_error["pointer"], field_error)
        reported = list(by_pointer.values())[:MAX_REPORTED_ERRORS]
        fields = "1 field is wrong" if len(by_pointer) == 1 else f"{len(by_pointer)} fields are wrong"
        raise ProblemError(
            422, f"{fields}, the first is {reported[0]['field']}: {reported[0]['detail']}", reported
        ) from None


def to_checkout(request: RecommendationIn) -> Checkout:
    """The checkout of a request. Raises ProblemError (422) for one that is invalid."""
    history = request.history
    try:
        return Checkout(
            user_id=request.user_id,
            basket=_to_lines(request.basket),
            ts=request.ts,
            history=None if history is None else [_to_event(event) for event in history],
            context=request.context,
            profile=request.profile,
            exclude=request.exclude,
            categories=request.categories,
            order_id=request.order_id,
            language=request.language,
        )
    except ValueError as error:
        raise ProblemError(422, str(error)) from None


def reject_unknown_categories(recommender: Recommender, checkout: Checkout) -> None:
    """Raise ProblemError (422), with the nearest names, for a category that no item of the bundle has."""
    unknown = recommender.eligibility_filter.unknown_categories(checkout)
    errors = [
        {
            "field": f"categories[{index}]",
            "pointer": f"/categories/{index}",
            "detail": f"no item has the category '{path}'; near: {', '.join(unknown[path]) or 'none'}",
        }
        for index, path in enumerate(checkout.categories or ())
        if path in unknown
    ]
    if errors:
        raise ProblemError(422, f"{errors[0]['field']}: {errors[0]['detail']}", errors)


def to_events(request: CheckoutIn) -> list[Event]:
    """The purchases of a checkout, as events of the store."""
    return purchase_events(Checkout(request.user_id, _to_lines(request.basket), request.ts), int(time.time()))


def profile_strings(profile: Mapping[str, str | float]) -> dict[str, str]:
    """Attributes as a store keeps them: 330.0 becomes "330"."""
    return {
        name: str(int(value) if isinstance(value, float) and value.is_integer() else value)
        for name, value in profile.items()
    }


def slate_json(slate: Slate) -> bytes:
    """Returns a slate as the JSON of SlateOut."""
    content = {
        "request_id": slate.request_id,
        "bundle_version": slate.bundle_version,
        "tier": slate.tier,
        "reason": slate.reason,
        "timings": {stage: round(milliseconds, 3) for stage, milliseconds in slate.timings.items()},
        "withheld": slate.withheld,
        "rules": slate.rules,
        # Prices are float32: 1.29 would read 1.2899999618530273.
        "items": [
            {
                "position": position,
                **{name: getattr(item, name) for name in ITEM_FIELDS},
                "price": round(item.price, 6),
            }
            for position, item in enumerate(() if slate.withheld else slate.items, 1)
        ],
    }
    return pydantic_core.to_json(content, inf_nan_mode="null")


def _to_lines(basket: list[LineIn]) -> list[Line]:
    return [Line(line.item_id, line.quantity, line.price) for line in basket]


def _to_event(event: EventIn) -> Event:
    return Event(event.item_id, event.ts, event.kind, event.quantity, event.price)


def _field_error(model: type[BaseModel], error: Any) -> dict[str, str]:
    path = [part for part in error["loc"] if part != "[key]"]
    if path and path[0] in ("context", "profile"):
        path = path[:2]  # the rest names the branch of a union
    detail = error["msg"]
    if error["type"] == "extra_forbidden":
        parent: type[BaseModel] = model
        if path[1:]:
            parent = LineIn if path[0] == "basket" else EventIn
        detail = f"unknown field; expected {', '.join(parent.model_fields)}"
    elif error["type"] == "missing":
        detail = "it must be given"
    elif path and path[-1] == "ts":
        detail += "; Unix seconds (UTC) as a whole number, not milliseconds"
    elif len(path) == 2 and path[0] in ("context", "profile"):
        detail = (
            f"expected a string or a finite number of at most {MAX_NUMBER:g}, under a name that is not empty"
        )
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return {
        "field": field or "the body",
        "pointer": "".join(f"/{part}" for part in escaped),
        "detail": detail,
    }
