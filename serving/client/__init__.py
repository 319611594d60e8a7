"""A client of the HTTP service, of the standard library alone: importing it loads no model and no torch.

    from sextet.client import SextetClient
    from sextet import Checkout, Line

    client = SextetClient("https://recommendations.example.com", key, timeout=0.3, fallback=["A1", "B7", …])
    slate = client.recommend(Checkout("U17", [Line("A1")], order_id="2024-1001"))

`recommend` takes and returns the values of `Recommender.recommend`.
"""

from .client import BundleInfo, Readiness, SextetClient
from .errors import InvalidRequestError, SextetError, UnauthorizedError, UnavailableError

__all__ = [
    "BundleInfo",
    "InvalidRequestError",
    "Readiness",
    "SextetClient",
    "SextetError",
    "UnauthorizedError",
    "UnavailableError",
]
