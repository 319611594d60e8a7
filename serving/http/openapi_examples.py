"""Examples and response descriptions for /docs."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .orders import CancellationIn, ReturnIn
from .rule_schema import RuleIn
from .schema import CheckoutIn, FeedbackIn, Problem, RecommendationIn

REF_TEMPLATE = "#/components/schemas/{model}"
RECOMMENDATION = {
    "user_id": "900",
    "basket": [{"item_id": "1095275", "quantity": 2, "price": 1.0}],
    "context": {"store": "330"},
    "exclude": ["1082185"],
}
GUEST_RECOMMENDATION = {
    "basket": [{"item_id": "1095275"}],
    "history": [{"item_id": "1082185", "ts": 1512000000, "kind": "click"}],
}
CHECKOUT = {"user_id": "900", "order_id": "A-1001", "basket": [{"item_id": "1095275", "quantity": 2}]}
CANCELLATION = {"user_id": "900"}
CANCELLED_ORDER = {"order_id": "A-1001", "lines": []}
RETURN = {"user_id": "900", "lines": [{"item_id": "1095275", "quantity": 1}]}
RETURNED_ORDER = {"order_id": "A-1001", "lines": [{"item_id": "1095275", "quantity": 1.0}]}
CLICK = {"kind": "click", "request_id": "5f0c0e6c0b4b4f1f9a3b8d2f6f0e7a11", "item_id": "1082185"}
PURCHASE = {**CLICK, "kind": "purchase", "value": 2.0}
SLATE = {
    "request_id": CLICK["request_id"],
    "bundle_version": "20261129T005928Z-358cf72f",
    "tier": "ranked",
    "reason": "",
    "timings": {"queue": 0.1, "ranker": 4.2, "total": 8.7},
    "withheld": False,
    "items": [
        {
            "position": 1,
            "item_id": "1082185",
            "title": "Bananas 40 LB",
            "category": "PRODUCE/TROPICAL FRUIT",
            "price": 1.0,
            "click": 0.476,
            "purchase": 0.443,
            "value": 0.805,
            "sources": ["ann", "buy_again"],
            "propensity": 1.0,
            "predictions": {"click": 0.476, "purchase": 0.443, "value": 1.817},
            "reason": {
                "code": "co_purchase",
                "params": {"item": "Semi-skimmed milk"},
                "text": "Bought together with Semi-skimmed milk",
            },
            "rules": ["own-brands"],
        }
    ],
    "rules": [{"rule": "own-brands", "effect": "boosts 1 of the slate's items"}],
}


def request_body(model: type[BaseModel], **examples: dict[str, Any]) -> dict[str, Any]:
    """Describes a request body in OpenAPI, for a route that parses its body outside the event loop."""
    content = {
        "schema": {"$ref": REF_TEMPLATE.format(model=model.__name__)},
        "examples": {name: {"value": value} for name, value in examples.items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def json_response(model: type[BaseModel], example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of a successful response with an example."""
    return {200: {"model": model, "content": {"application/json": {"example": example}}}}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of the problems that a route may answer with."""
    content = {"application/problem+json": {"schema": {"$ref": REF_TEMPLATE.format(model="Problem")}}}
    return {status: {"content": content, "description": STATUS_DESCRIPTIONS[status]} for status in statuses}


def component_schemas() -> dict[str, Any]:
    """Schemas of the bodies and of Problem, by name."""
    models = (RecommendationIn, CheckoutIn, FeedbackIn, CancellationIn, ReturnIn, RuleIn, Problem)
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=REF_TEMPLATE
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas


STATUS_DESCRIPTIONS = {
    400: "The body is not JSON",
    401: "No valid API key",
    403: "This route needs an admin key",
    404: "There is no such thing: the detail says which",
    408: "The body did not arrive in time",
    409: "What is there forbids it: the detail says why",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "A field is wrong: `errors` names it",
    501: "The service was started without this part",
    503: "Not ready, overloaded, or the store cannot write: Retry-After says when to try again",
}
