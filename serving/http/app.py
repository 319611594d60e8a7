"""The routes. Slow work runs in threads; the event loop handles bytes and popularity fallbacks."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..events.impression_log import ImpressionLog
from ..stores.base import Store
from . import openapi_examples, orders
from .answers import AliveOut, BundleOut, LoggedOut, ReadyOut, RecordedOut, RemovalOut
from .body import BodyReader
from .forgetting import forget_user
from .item_routes import add_item_routes
from .middleware import RequestMiddleware
from .openapi import add_document
from .orders import CancellationIn, OrderOut, ReturnIn
from .path_ids import register_ids
from .problems import ProblemError, problem_response, unavailable_error
from .proxy import add_proxy_middleware
from .rule_routes import add_rule_routes
from .schema import CheckoutIn, FeedbackIn, RecommendationIn, SlateOut
from .service import Service
from .settings import Settings

SWITCH_INTERVAL = 0.0005  # seconds until a thread hands over the GIL; by default the event loop waits 5 ms


def create_app(settings: Settings, store: Store | None = None, log: ImpressionLog | None = None) -> FastAPI:
    """The application of one worker.

    Args:
        store, log: used instead of the store and log in the settings.

    Raises OSError, ValueError or ImportError for a store, log or key file that cannot be used.
    """
    service = Service(settings, store, log)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        previous_interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL)
        await asyncio.to_thread(service.start)
        yield
        await service.close()
        sys.setswitchinterval(previous_interval)

    app = FastAPI(
        title="Sextet", version="1", summary="Six more items after a checkout.", lifespan=lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,  # operationId: the function's name
        servers=[{"url": settings.root_path}] if settings.root_path else None,
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(
        RequestMiddleware, metrics=service.metrics, keys=service.keys, access_log=settings.access_log,
        tracer=service.tracer,
    )  # fmt: skip
    add_proxy_middleware(app, settings.root_path, settings.cors_origins)
    register_ids()
    bodies = BodyReader(settings.max_body)
    _add_shop_routes(app, service, bodies)
    _add_order_routes(app, service, bodies)
    add_item_routes(app, service, bodies)
    _add_operations_routes(app, service)
    add_rule_routes(app, service, BodyReader(settings.max_body))
    add_document(app, settings.api_key_file is not None, service.recorder.feedback_kinds)

    @app.exception_handler(ProblemError)
    async def handle_problem(_: Request, error: ProblemError) -> Response:
        return problem_response(error)

    @app.exception_handler(HTTPException)
    async def handle_http_exception(request: Request, error: HTTPException) -> Response:
        detail = f"there is no {request.method} {request.url.path}: /docs lists the routes"
        return problem_response(ProblemError(error.status_code, detail, headers=error.headers))

    return app


def _add_shop_routes(app: FastAPI, service: Service, bodies: BodyReader) -> None:
    """The routes that a shop calls."""

    @app.post(
        "/v1/recommendations", summary="Six items to show after a checkout",
        responses={
            **openapi_examples.json_response(SlateOut, openapi_examples.SLATE),
            **openapi_examples.problem_responses(400, 401, 408, 413, 415, 422, 503)
        },
        openapi_extra=openapi_examples.request_body(
            RecommendationIn, customer=openapi_examples.RECOMMENDATION,
            guest=openapi_examples.GUEST_RECOMMENDATION
        ),
    )  # fmt: skip
    async def recommend(request: Request) -> Response:
        service.recommender()  # a worker that is not ready answers before it reads the body
        body = await bodies.read(request)
        return await service.recommend(body, request.scope["arrival_time"])

    @app.post(
        "/v1/checkouts", status_code=201, summary="Record a checkout; the next recommendation reflects it",
        responses={
            201: {"model": RecordedOut},
            **openapi_examples.problem_responses(400, 401, 408, 413, 415, 422, 501, 503)
        },
        openapi_extra=openapi_examples.request_body(CheckoutIn, order=openapi_examples.CHECKOUT),
    )  # fmt: skip
    async def record_checkout(request: Request) -> Response:
        return await service.recorder.record_checkout(await bodies.read(request))

    @app.post(
        "/v1/feedback", status_code=202, summary="Log a click, a purchase or another action on an item",
        responses={
            202: {"model": LoggedOut},
            **openapi_examples.problem_responses(400, 401, 408, 413, 415, 422, 501, 503)
        },
        openapi_extra=openapi_examples.request_body(
            FeedbackIn, click=openapi_examples.CLICK, purchase=openapi_examples.PURCHASE,
        ),
    )  # fmt: skip
    async def record_feedback(request: Request) -> Response:
        return await service.recorder.record_feedback(await bodies.read(request))


def _add_order_routes(app: FastAPI, service: Service, bodies: BodyReader) -> None:
    """The routes that change recorded orders."""

    @app.post(
        "/v1/orders/{order_id:id}/cancel", summary="Take an order out of its user's history",
        responses={
            **openapi_examples.json_response(OrderOut, openapi_examples.CANCELLED_ORDER),
            **openapi_examples.problem_responses(400, 401, 404, 408, 413, 415, 422, 501, 503)
        },
        openapi_extra=openapi_examples.request_body(CancellationIn, order=openapi_examples.CANCELLATION),
    )  # fmt: skip
    async def cancel_order(order_id: str, request: Request) -> Response:
        return await orders.cancel_order(service.recorder, order_id, await bodies.read(request))

    @app.post(
        "/v1/orders/{order_id:id}/returns", summary="Take what came back out of an order",
        responses={
            **openapi_examples.json_response(OrderOut, openapi_examples.RETURNED_ORDER),
            **openapi_examples.problem_responses(400, 401, 404, 408, 413, 415, 422, 501, 503)
        },
        openapi_extra=openapi_examples.request_body(ReturnIn, items=openapi_examples.RETURN),
    )  # fmt: skip
    async def return_items(order_id: str, request: Request) -> Response:
        return await orders.return_items(service.recorder, order_id, await bodies.read(request))


def _add_operations_routes(app: FastAPI, service: Service) -> None:
    """The routes that operators and probes call."""

    @app.get(
        "/v1/bundle", summary="The bundle that serves, and the versions that answer for arms",
        responses={200: {"model": BundleOut}, **openapi_examples.problem_responses(401, 503)},
    )  # fmt: skip
    async def bundle() -> Response:
        current = service.recommender().bundle
        manifest, tasks = current.manifest, [task._asdict() for task in current.tasks]
        public_fields, dims = ("version", "created", "data", "metrics", "slate"), manifest["dims"]
        return JSONResponse(
            {
                **{name: manifest[name] for name in public_fields},
                "dims": {**dims, "items": dims["items"] - 1 - dims.get("spare", 0)},  # row 0 is not an item
                "tasks": tasks,
                "arms": service.arm_versions(),
            }
        )

    @app.delete(
        "/v1/users/{user_id:id}", summary="Forget a user: store, log, caches, exported histories",
        responses={
            200: {"model": RemovalOut}, 202: {"model": RemovalOut, "description": "Something waits"},
            **openapi_examples.problem_responses(401, 403, 422, 501),
        },
    )  # fmt: skip
    async def forget(user_id: str) -> Response:
        return await forget_user(user_id, service.settings, service.store, service.log, service.live)

    @app.get("/healthz", summary="Whether the process is alive", responses={200: {"model": AliveOut}})
    async def healthz() -> Response:
        return JSONResponse({"status": "alive"})

    @app.get(
        "/readyz",
        summary="Whether a bundle is loaded and warm",
        responses={200: {"model": ReadyOut}, **openapi_examples.problem_responses(503)},
    )
    async def readyz() -> Response:
        recommender, reason = service.bundle_watcher.recommender, service.problem()
        if service.is_draining:
            raise unavailable_error("not ready: the service is stopping")
        if recommender is None:
            raise unavailable_error(f"not ready: {reason}")
        problems = await asyncio.to_thread(service.health.poll)
        reason = "; ".join(part for part in (reason, *problems) if part)
        return JSONResponse(
            {"status": "ready", "bundle_version": recommender.bundle.version, "reason": reason}
        )

    @app.get(
        "/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse,
        responses=openapi_examples.problem_responses(401),
    )  # fmt: skip
    async def metrics() -> Response:
        exposition = await asyncio.to_thread(service.metrics.exposition)
        return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")
