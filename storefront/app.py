"""The service's application, extended by a shop: the page, and the routes that only the page reads."""

import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from serving.http.app import create_app
from serving.http.problems import ProblemError, problem_response
from serving.http.service import Service
from serving.http.settings import Settings
from serving.storage.bundle import read_arrow
from storefront import catalog_queries

PAGE_DIR = Path(__file__).with_name("page")
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
Limit = Annotated[int, Query(ge=1, le=50)]
SearchText = Annotated[str, Query(max_length=100)]
UserId = Annotated[str, Query(min_length=1, max_length=100)]


def create_shop_app(settings: Settings, exported_store: Path | None = None) -> FastAPI:
    """The application of the shop.

    Args:
        settings: settings of the service, with a writable store and a log.
        exported_store: the `store.arrow` whose users are the households to choose from; None for guests only.

    Raises the errors of `create_app`, and pyarrow.ArrowException if `exported_store` is not an Arrow file.
    """
    app = create_app(settings)
    service: Service = app.state.service
    households = catalog_queries.household_table(
        None if exported_store is None else read_arrow(str(exported_store))
    )
    start_time = time.monotonic()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE_DIR / "index.html", headers=PAGE_HEADERS)

    @app.get("/shop/about", include_in_schema=False)
    def about() -> dict[str, Any]:
        bundle = service.recommender().bundle
        # The shop's clock starts after the last event of the data: today, all events would be old.
        shop_start = bundle.manifest["data"]["window"]["end"] + 1
        return {
            "now": shop_start + time.monotonic() - start_time,
            "bundle_version": bundle.version,
            "items": int((bundle.fallback_rank >= 0).sum()),
            "households": len(households),
            "deadline_ms": settings.deadline_ms,
        }

    @app.get("/shop/items", include_in_schema=False)
    def items(q: SearchText = "", limit: Limit = 8) -> list[dict[str, Any]]:
        return catalog_queries.search_items(service.recommender().bundle, q, limit)

    @app.get("/shop/households", include_in_schema=False)
    def find_households(prefix: SearchText = "", limit: Limit = 8) -> list[dict[str, Any]]:
        return catalog_queries.search_households(households, prefix, limit)

    @app.get("/shop/orders", include_in_schema=False)
    def orders(user_id: UserId, limit: Limit = 5) -> list[dict[str, Any]]:
        assert service.store is not None
        return catalog_queries.past_orders(service.store.get(user_id), service.recommender().bundle, limit)

    @app.exception_handler(RequestValidationError)
    async def handle_invalid_parameter(_: Request, error: RequestValidationError) -> Response:
        errors = [
            {"field": str(detail["loc"][-1]), "pointer": "", "detail": detail["msg"]}
            for detail in error.errors()
        ]
        return problem_response(ProblemError(422, f"{errors[0]['field']}: {errors[0]['detail']}", errors))

    app.mount("/shop/page", StaticFiles(directory=PAGE_DIR))
    return app
