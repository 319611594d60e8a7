"""Bodies and answers of the routes of live items, as pydantic models of the OpenAPI document.

serving/live_items/changes.py checks the changes, as for the command `items`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from .schema import STRICT, AttributeValue, Id, Money

Text = Annotated[str, Field(pattern=r"\S")]
CategoryPath = Annotated[str, Field(pattern=r"[^/>\s]")]
Vector = Annotated[list[float], Field(min_length=1)]


class ItemChangeIn(BaseModel):
    """New values of an item. An omitted field keeps its value; null restores the bundle's value."""

    model_config = STRICT
    item_id: Id
    available: bool | None = None
    price: Money | None = Field(None, description="usual unit price")
    title: Text | None = None
    description: Text | None = Field(None, description="further words for the item tower; never shown")
    category: CategoryPath | None = Field(None, description="path a/b/c")
    brand: Text | None = None
    attributes: dict[Id, AttributeValue | None] | None = None
    vectors: dict[Id, Vector | None] | None = Field(
        None, description="the item's own vectors, by column of the items table"
    )


class ItemResultOut(BaseModel):
    """The result of a change."""

    item_id: str
    result: Literal["changed", "new", "unknown"]
    available: bool | None = Field(default=None, description="as it serves now")
    price: float | None = Field(default=None, description="as it serves now")
    waits: list[str] = Field(default=[], description="fields that act from the next export on")
    detail: str = Field(default="", description="why the item is unknown")


class ItemResultsOut(BaseModel):
    """The result of each change, in order."""

    items: list[ItemResultOut]


class LiveValueOut(BaseModel):
    """A live value."""

    value: Any
    ts: float = Field(description="Unix seconds (UTC) of the change")


class ServedItemOut(BaseModel):
    """The current state of an item."""

    item_id: str
    source: Literal["bundle", "live", "unknown"]
    available: bool | None
    price: float | None
    title: str | None
    category: str | None
    live: dict[str, LiveValueOut] = Field(description="by field")
    bundle_version: str


class ForgottenItemOut(BaseModel):
    """The live values of the item are removed."""

    item_id: str
    forgotten: int = Field(description="live values that the item had")
