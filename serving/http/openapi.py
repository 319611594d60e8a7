"""The OpenAPI document: FastAPI's document of the routes, completed with bodies, keys and tags."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from .docs_page import SECURITY_POLICY, docs_page
from .keys import ADMIN_PATHS, PUBLIC_PATHS
from .openapi_examples import component_schemas

SHOP_KEY, ADMIN_KEY = "shopKey", "adminKey"
SECURITY_SCHEMES = {
    SHOP_KEY: {"type": "http", "scheme": "bearer", "description": "A line of the file of --api-key-file."},
    ADMIN_KEY: {"type": "http", "scheme": "bearer", "description": "A line of the file of --admin-key-file."},
}
TAGS = {
    "shop": "What a shop's pages and servers call.",
    "administration": "What changes the slates of everybody. It needs an admin key.",
    "operations": "For probes, monitoring and operators.",
}
OPERATIONS_PATHS = ("/v1/bundle", "/metrics", *PUBLIC_PATHS)


def add_document(app: FastAPI, needs_key: bool, feedback_kinds: Callable[[], Sequence[str]]) -> None:
    """Complete the application's document, and add the page /docs.

    Document and page are built once for the kinds of feedback that the bundle accepts, because a build blocks
    the event loop for some milliseconds.
    """
    routes_document = app.openapi

    @lru_cache(maxsize=1)
    def document(kinds: tuple[str, ...]) -> dict[str, Any]:
        return complete_document(routes_document(), needs_key, kinds)

    @lru_cache(maxsize=1)
    def page(kinds: tuple[str, ...]) -> str:
        return docs_page(document(kinds))

    app.openapi = lambda: document(tuple(feedback_kinds()))  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        headers = {"Content-Security-Policy": SECURITY_POLICY}
        return HTMLResponse(page(tuple(feedback_kinds())), headers=headers)


def complete_document(
    document: dict[str, Any], needs_key: bool, feedback_kinds: Sequence[str]
) -> dict[str, Any]:
    """Adds everything to the document that the routes do not declare.

    Args:
        document: FastAPI's document, which is changed in place.
        needs_key: whether the service has a file of shop keys.
        feedback_kinds: the kinds of feedback that the bundle accepts.
    """
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(component_schemas())
    schemas["FeedbackIn"]["properties"]["kind"]["enum"] = list(feedback_kinds)
    components["securitySchemes"] = SECURITY_SCHEMES
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["security"] = _security(path, needs_key)
            operation["tags"] = [_tag(path)]
    return document


def _security(path: str, needs_key: bool) -> list[dict[str, list[str]]]:
    """Returns the keys with which a path may be called, as keys.py checks them.

    One key of the list is enough; {} stands for a call without a key.
    """
    if path in PUBLIC_PATHS:
        return []
    if path.startswith(ADMIN_PATHS):
        return [{ADMIN_KEY: []}]
    keys: list[dict[str, list[str]]] = [{SHOP_KEY: []}, {ADMIN_KEY: []}]
    return keys if needs_key else [{}, *keys]


def _tag(path: str) -> str:
    if path in OPERATIONS_PATHS:
        return "operations"
    return "administration" if path.startswith(ADMIN_PATHS) else "shop"
