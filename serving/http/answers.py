"""Answers of all routes except recommendations, as pydantic models of the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class TaskOut(BaseModel):
    """A task that the bundle predicts."""

    name: str
    kind: str = Field(description="binary, amount or count")
    label: str = Field(description="what of the log it predicts")
    window: str | None = Field(description="in which time; null for the data's horizon")
    given: str | None = Field(description="the task that it is conditional on")
    joint: bool = Field(description="a binary task with `given` is reported as p(given) · p(task | given)")
    control: str | None = Field(description="the task over whose probability its own is the uplift")


class BundleOut(BaseModel):
    """The bundle that serves."""

    version: str
    created: str = Field(description="ISO 8601, UTC")
    data: dict[str, Any] = Field(description="`window`: Unix seconds of the first and last row")
    dims: dict[str, int] = Field(
        description="`items` of the catalog, `spare` rows for new items, length of a `vector`"
    )
    metrics: dict[str, Any] = Field(description="of training and of the index")
    slate: dict[str, Any] = Field(description="policy: objective, variety, caps")
    tasks: list[TaskOut]
    arms: dict[str, str] = Field(description="version that an arm names → the version that answers for it")


class AliveOut(BaseModel):
    """The process is alive."""

    status: Literal["alive"]


class ReadyOut(BaseModel):
    """A bundle is loaded and warm."""

    status: Literal["ready"]
    bundle_version: str
    reason: str = Field(
        description="why a newer version, an arm's or another part does not serve; empty if all do"
    )


class RecordedOut(BaseModel):
    """The checkout is stored."""

    events: int = Field(
        description="lines of the basket: purchases of the history; a retry adds none and answers the same"
    )


class RemovalOut(BaseModel):
    """The result of removing a user."""

    removed: dict[str, dict[str, int]] = Field(description="place → number of what was removed, by kind")
    waiting: list[str] = Field(description="what is left and why; the same request again completes it")
    notes: list[str] = Field(description="what else holds the user, such as training data")


class LoggedOut(BaseModel):
    """The feedback is logged."""

    logged: Literal[1]
    shown: Literal["yes", "no", "unknown"] = Field(
        description="whether the slate of `request_id` had the item; unknown without one of this service"
    )
