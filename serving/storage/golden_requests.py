"""Golden requests: the checkouts of `golden.arrow`, with the slates that a bundle must give."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkout import Checkout, Event, Line, Slate
from .bundle import Bundle, BundleError, read_arrow

TOLERANCE = 1e-3  # of probabilities: other processors add in another order


def checkout_to_json(checkout: Checkout) -> str:
    """A checkout as a JSON object with its field names; lines and events as objects."""
    sorted_fields = {"exclude": sorted(checkout.exclude)}
    if checkout.categories is not None:
        sorted_fields["categories"] = sorted(checkout.categories)
    return json.dumps({**asdict(checkout), **sorted_fields}, ensure_ascii=False)


def checkout_from_json(text: str) -> Checkout:
    """The inverse of `checkout_to_json`. Raises ValueError or TypeError for text that is no checkout."""
    fields: dict[str, Any] = json.loads(text)
    fields["basket"] = [Line(**line) for line in fields["basket"]]
    if fields.get("history") is not None:
        fields["history"] = [Event(**event) for event in fields["history"]]
    return Checkout(**fields)


def read_golden_requests(bundle: Bundle) -> list[tuple[Checkout, dict[str, Any]]]:
    """The golden requests, each with its `slate` (item ids) and `purchase` (probabilities)."""
    file = bundle.folder / "golden.arrow"
    rows = read_arrow(str(file)).to_pylist()
    if not rows:
        raise BundleError(file, "it holds no request", "export again")
    return [(checkout_from_json(row["request"]), row) for row in rows]


def replay_golden_requests(
    recommend: Callable[[Checkout], Slate], folder: Path, requests: list[tuple[Checkout, dict[str, Any]]]
) -> None:
    """Answer every golden request of a bundle folder with `recommend`.

    Raises BundleError for a slate or probability that differs.
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
        for item, purchase in zip(slate.items, expected["purchase"], strict=True):
            if item.purchase is None or abs(item.purchase - purchase) > TOLERANCE:
                raise BundleError(
                    file,
                    f"request {number}: p(purchase) of {item.item_id} is {item.purchase}, not {purchase}",
                    remedy,
                )
