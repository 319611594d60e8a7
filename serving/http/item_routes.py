"""The routes of live items: stock, prices and new items, without a new version (serving/live_items)."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pydantic_core
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from ..live_items.changes import (
    ACTING_FIELDS,
    GROUPS,
    STOCK_FIELDS,
    TEXT_FIELDS,
    TOPIC,
    ItemChange,
    entry_key,
    is_placeable,
    make_change,
    to_entries,
)
from ..live_items.overlay import LiveItems
from ..stores.live_state import Change
from . import openapi_examples
from .body import BodyReader
from .item_schema import ForgottenItemOut, ItemChangeIn, ItemResultOut, ItemResultsOut, ServedItemOut
from .live_updates import LiveUpdates
from .problems import ProblemError, not_configured_error, unavailable_error
from .schema import MAX_REPORTED_ERRORS
from .service import Service

T = TypeVar("T")
MAX_CHANGES = 10_000  # of one request
EXAMPLE = [
    {"item_id": "1082185", "available": False},
    {"item_id": "1095275", "price": 0.99},
    {"item_id": "new-1", "title": "Bananas, organic", "category": "PRODUCE/TROPICAL FRUIT", "price": 1.29},
]


def add_item_routes(app: FastAPI, service: Service, bodies: BodyReader) -> None:
    """Add PUT /v1/items, and GET and DELETE /v1/items/{item_id}."""
    items = ItemChangeIn.model_json_schema()
    schema = {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_CHANGES}
    content = {"schema": schema, "examples": {"changes": {"value": EXAMPLE}}}

    @app.put(
        "/v1/items", summary="Change stock and prices, and add items, within seconds",
        responses={
            200: {"model": ItemResultsOut},
            **openapi_examples.problem_responses(400, 401, 403, 408, 409, 413, 415, 422, 501, 503)
        },
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": content}}},
    )  # fmt: skip
    async def change_items(request: Request) -> Response:
        live = _live(service)
        body = await bodies.read(request)
        return JSONResponse({"items": await asyncio.to_thread(apply_changes, service, live, body)})

    @app.get(
        "/v1/items/{item_id:id}", summary="An item as it serves now, and its live values",
        responses={
            200: {"model": ServedItemOut}, **openapi_examples.problem_responses(401, 403, 404, 501, 503)
        },
    )  # fmt: skip
    async def show_item(item_id: str) -> Response:
        live = _live(service)
        await asyncio.to_thread(live.poll)  # what another worker wrote a moment ago is shown, too
        return JSONResponse(await asyncio.to_thread(describe_item, service, item_id))

    @app.delete(
        "/v1/items/{item_id:id}", summary="Forget the live values of an item",
        responses={
            200: {"model": ForgottenItemOut}, **openapi_examples.problem_responses(401, 403, 501, 503)
        },
    )  # fmt: skip
    async def forget_item(item_id: str) -> Response:
        live = _live(service)
        await asyncio.to_thread(live.poll)  # the names of its attributes are in the entries
        entries = service.item_updates.entries(item_id)
        fields = dict.fromkeys((*STOCK_FIELDS, *TEXT_FIELDS, *entries))
        removals = [Change(TOPIC, entry_key(item_id, field), None) for field in fields]
        await asyncio.to_thread(_write, live, removals)
        return JSONResponse({"item_id": item_id, "forgotten": len(entries)})


def apply_changes(service: Service, live: LiveUpdates, body: bytes) -> list[dict[str, Any]]:
    """Apply the changes of a body in this worker, and soon in every other. Returns one result per item.

    Raises ProblemError (400, 422, and 409 for new items without room); then nothing changes.
    """
    changes = parse_changes(body)
    recommender = service.recommender()
    live.poll()  # items that other workers took a moment ago have taken rows
    live_items = service.item_updates.open(recommender)
    _check_new_items(live_items, changes)
    _write(live, to_entries(changes, time.time()))
    return [_result(live_items, change) for change in changes]


def parse_changes(body: bytes) -> list[ItemChange]:
    """The changes of a JSON array. Raises ProblemError (400, 422), which names index and field."""
    try:
        content = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ProblemError(400, f"the body is not JSON: {error}") from None
    if not isinstance(content, list) or not 1 <= len(content) <= MAX_CHANGES:
        raise ProblemError(422, f"send an array of 1 to {MAX_CHANGES:,} changes")
    return _for_each(content, make_change)


def _for_each(values: list[Any], parse: Callable[[Any], T]) -> list[T]:
    """Parse each value. Raises ProblemError (422), which names the refused values."""
    results: list[T] = []
    errors: list[dict[str, str]] = []
    for index, value in enumerate(values):
        try:
            if not isinstance(value, dict | ItemChange):
                raise ValueError("expected an object with item_id and the fields that change")
            results.append(parse(value))
        except ValueError as error:
            errors.append(_field_error(index, str(error)))
    if errors:
        count = "1 change is wrong" if len(errors) == 1 else f"{len(errors)} changes are wrong"
        detail = f"{count}, nothing was changed; the first is {errors[0]['field']}: {errors[0]['detail']}"
        raise ProblemError(422, detail, errors[:MAX_REPORTED_ERRORS])
    return results


def _field_error(index: int, message: str) -> dict[str, str]:
    """The error of a problem response, made from a message `field: detail`."""
    name, separator, detail = message.partition(": ")
    if not separator:
        return {"field": f"[{index}]", "pointer": f"/{index}", "detail": message}
    parts = [name]
    for group, prefix in GROUPS.items():
        if name.startswith(prefix):
            parts = [group, name.removeprefix(prefix)]
    escaped = (part.replace("~", "~0").replace("/", "~1") for part in parts)
    return {
        "field": ".".join((f"[{index}]", *parts)),
        "pointer": "/".join((f"/{index}", *escaped)),
        "detail": detail,
    }


def _check_new_items(live_items: LiveItems, changes: list[ItemChange]) -> None:
    """Raise ProblemError for new items without a row (409), or with vectors of another length (422)."""
    item_rows, new_rows = live_items.bundle.item_rows, live_items.new_rows
    unknown = [
        (index, change)
        for index, change in enumerate(changes)
        if not item_rows.row(change.item_id)
        and is_placeable({name for name, value in change.values.items() if value is not None})
    ]
    if not unknown:
        return
    n_free = new_rows.n_free
    if len({change.item_id for _, change in unknown}) > n_free:
        index, change = unknown[min(n_free, len(unknown) - 1)]
        reason = new_rows.no_room or f"{n_free} more new items have room"
        detail = f"nothing was changed: [{index}].item_id {change.item_id!r} is new, and {reason}"
        raise ProblemError(409, detail)
    new_ids = {change.item_id for _, change in unknown}
    encoder = new_rows.encoder()
    _for_each(changes, lambda change: encoder.check(change.values) if change.item_id in new_ids else None)


def _result(live_items: LiveItems, change: ItemChange) -> dict[str, Any]:
    """The result of a change: `waits` names the fields that take effect with the next export."""
    served = live_items.served(change.item_id)
    if served is None:
        detail = "no item of the bundle, and neither title nor category: kept for a version that has the item"
        if is_placeable(change.values):  # other services took the last rows meanwhile
            detail = live_items.new_rows.no_room or detail
        return ItemResultOut(item_id=change.item_id, result="unknown", detail=detail).model_dump()
    waits = [] if served.is_new else [name for name in change.values if name not in ACTING_FIELDS]
    return ItemResultOut(
        item_id=change.item_id,
        result="new" if served.is_new else "changed",
        available=served.available,
        price=served.price,
        waits=waits,
    ).model_dump()


def describe_item(service: Service, item_id: str) -> dict[str, Any]:
    """The current state of an item, with its live entries. Raises ProblemError (404)."""
    recommender = service.recommender()
    served = service.item_updates.open(recommender).served(item_id)
    entries = service.item_updates.entries(item_id)
    if served is None and not entries:
        raise ProblemError(404, f"there is no item {item_id!r}, neither in the bundle nor live")
    source = "unknown" if served is None else "live" if served.is_new else "bundle"
    names = ("available", "price", "title", "category")
    return {
        "item_id": item_id,
        "source": source,
        **{name: getattr(served, name, None) for name in names},
        "live": {entry.field: {"value": entry.value, "ts": entry.ts} for entry in entries.values()},
        "bundle_version": recommender.bundle.version,
    }


def _live(service: Service) -> LiveUpdates:
    if service.live is None:
        raise not_configured_error("place for live items", "--live")
    return service.live


def _write(live: LiveUpdates, changes: list[Change]) -> None:
    try:
        live.write(changes)
    except OSError as error:
        raise unavailable_error(f"nothing was changed: {error}") from None
