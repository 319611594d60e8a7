"""Changes of recorded orders: cancellations and returns."""

from typing import Annotated

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from ..checkout import Event
from ..stores.base import UserHistory
from ..stores.orders import OrderChange, OrderStore, keeps_orders
from .problems import ProblemError, not_configured_error
from .recording import EventRecorder
from .schema import STRICT, Id, Quantity, parse_body

MAX_LINES = 1000  # of a return


class CancellationIn(BaseModel):
    """The user whose order is cancelled."""

    model_config = STRICT
    user_id: Id


class ReturnLineIn(BaseModel):
    """The returned quantity of an item."""

    model_config = STRICT
    item_id: Id
    quantity: Quantity = 1.0


class ReturnIn(BaseModel):
    """The returned lines of an order."""

    model_config = STRICT
    user_id: Id
    lines: Annotated[list[ReturnLineIn], Field(min_length=1, max_length=MAX_LINES)]
    return_id: Id | None = Field(
        None,
        description="tells equal returns of one order apart; one sent again under the same id counts once",
    )


class OrderLineOut(BaseModel):
    """A remaining line."""

    item_id: str
    quantity: float


class OrderOut(BaseModel):
    """The remaining lines of an order."""

    order_id: str
    lines: list[OrderLineOut]


async def cancel_order(recorder: EventRecorder, order_id: str, body: bytes) -> Response:
    """Remove an order from its user's history."""
    store = _order_store(recorder)
    cancellation = parse_body(CancellationIn, body)
    return await _change_order(recorder, store, cancellation.user_id, OrderChange("cancel", order_id))


async def return_items(recorder: EventRecorder, order_id: str, body: bytes) -> Response:
    """Remove returned items from an order."""
    store = _order_store(recorder)
    returned = parse_body(ReturnIn, body)
    events = [Event(line.item_id, 0, "purchase", line.quantity) for line in returned.lines]
    content = returned.return_id or returned.model_dump_json(include={"lines"})
    change = OrderChange("return", order_id, events, content)
    return await _change_order(recorder, store, returned.user_id, change)


def _order_store(recorder: EventRecorder) -> OrderStore:
    if not keeps_orders(recorder.store):
        raise not_configured_error("event store whose orders can be changed", "--store")
    return recorder.store


async def _change_order(
    recorder: EventRecorder, store: OrderStore, user_id: str, change: OrderChange
) -> Response:
    remaining = await recorder.write_store(
        lambda: store.change_order(user_id, change), "the change of the order, which is safe to repeat"
    )
    if remaining is None:
        raise ProblemError(
            404,
            f"user {user_id!r} has no order {change.order_id!r} among the last 256: record it with"
            " POST /v1/checkouts under this order_id, or correct order_id or user_id",
        )
    return JSONResponse({"order_id": change.order_id, "lines": _lines(remaining)})


def _lines(order: UserHistory) -> list[dict[str, str | float]]:
    return [
        {"item_id": item_id, "quantity": quantity}
        for item_id, quantity in zip(order.item_id, order.quantity.tolist(), strict=True)
    ]
