"""Golden requests: the checkouts of `golden.arrow`, with the slates that a bundle must give."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkout import DEFAULT_LANGUAGE, Checkout, Event, Item, Line, Slate
from .bundle import Bundle, BundleError, read_arrow

TOLERANCE = 1e-3  # of probabilities, and relative of amounts: other processors add in another order


def checkout_to_json(checkout: Checkout) -> str:
    """A checkout as a JSON object with its field names; lines and events as objects."""
    sorted_fields = {"exclude": sorted(checkout.exclude)}
    if checkout.categories is not None:
        sorted_fields["categories"] = sorted(checkout.categories)
    fields = {**asdict(checkout), **sorted_fields}
    if checkout.language == DEFAULT_LANGUAGE:
        del fields["language"]  # earlier releases do not read it
    return json.dumps(fields, ensure_ascii=False)


def checkout_from_json(text: str) -> Checkout:
    """The inverse of `checkout_to_json`. Raises ValueError or TypeError for text that is not a checkout."""
    fields: dict[str, Any] = json.loads(text)
    fields["basket"] = [Line(**line) for line in fields["basket"]]
    if fields.get("history") is not None:
        fields["history"] = [Event(**event) for event in fields["history"]]
    return Checkout(**fields)


def read_golden_requests(bundle: Bundle) -> list[tuple[Checkout, dict[str, Any]]]:
    """The golden requests, each with its `slate` (item ids) and the predictions of these items.

    From format 9 on the predictions are `predictions`, T numbers for each item; in earlier formats they are
    `purchase` probabilities.
    """
    file = bundle.folder / "golden.arrow"
    rows = read_arrow(str(file)).to_pylist()
    if not rows:
        raise BundleError(file, "the file holds no request", "export again")
    return [(checkout_from_json(row["request"]), row) for row in rows]


def replay_golden_requests(
    recommend: Callable[[Checkout], Slate], folder: Path, requests: list[tuple[Checkout, dict[str, Any]]]
) -> None:
    """Answer every golden request of a bundle folder with `recommend`.

    Raises BundleError for a slate or prediction that differs.
    """
    file = folder / "golden.arrow"
    remedy = "the modules compute something else here than at export: serve with the versions in the manifest"
    for number, (checkout, expected) in enumerate(requests):
        slate = recommend(checkout)
        ids = [item.item_id for item in slate.items]
        if slate.tier != "ranked":
            raise BundleError(file, f"request {number} is answered by {slate.tier} ({slate.reason})", remedy)
        if ids != expected["slate"]:
            raise BundleError(file, f"request {number} gives {ids}, expected {expected['slate']}", remedy)
        for position, item in enumerate(slate.items):
            if problem := _prediction_error(item, expected, position):
                raise BundleError(file, f"request {number}: {problem}", remedy)


def _prediction_error(item: Item, expected: dict[str, Any], position: int) -> str:
    """Describes the first prediction for an item that differs from the expected one; "" if none does."""
    predictions = item.predictions or {}
    if "predictions" in expected:
        references = expected["predictions"][position]
        if len(references) != len(predictions):
            return f"{len(predictions)} predictions of {item.item_id}, expected {len(references)}"
        pairs = zip(predictions.items(), references, strict=True)
        compared = {name: (value, reference) for (name, value), reference in pairs}
    else:
        compared = {"purchase": (predictions.get("purchase", math.nan), expected["purchase"][position])}
    for name, (value, reference) in compared.items():
        if not abs(value - reference) <= TOLERANCE * max(1.0, abs(reference)):
            return f"{name} of {item.item_id} is {value}, expected {reference}"
    return ""
