"""A client of the HTTP service. It needs only the standard library: importing it loads no model and no torch.

    from sextet.client import SextetClient
    from sextet import Checkout, Line

    client = SextetClient("https://recommendations.example.com", key, timeout=0.3, fallback=["A1", "B7", …])
    slate = client.recommend(Checkout("U17", [Line("A1")], order_id="2024-1001"))

`recommend` takes and returns the values of `Recommender.recommend`. `SextetAdminClient` calls the routes of
administrators.
"""

from .admin import SextetAdminClient
from .client import SextetClient
from .errors import InvalidRequestError, SextetError, UnauthorizedError, UnavailableError
from .values import (
    BundleInfo,
    ItemPatch,
    ItemResult,
    LiveValue,
    OrderLine,
    Readiness,
    Removal,
    RuleState,
    RuleStates,
    ServedItem,
    Shown,
)

__all__ = [
    "BundleInfo",
    "InvalidRequestError",
    "ItemPatch",
    "ItemResult",
    "LiveValue",
    "OrderLine",
    "Readiness",
    "Removal",
    "RuleState",
    "RuleStates",
    "ServedItem",
    "SextetAdminClient",
    "SextetClient",
    "SextetError",
    "Shown",
    "UnauthorizedError",
    "UnavailableError",
]
