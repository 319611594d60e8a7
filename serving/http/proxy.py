"""Middleware for the path prefix of a proxy, and for pages of other origins (CORS)."""

import re
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

ORIGIN = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?")
ROOT_PATH = re.compile(r"(/[\w.~-]+)+")
PREFLIGHT_SECONDS = 600  # that a browser keeps the answer to a preflight
REQUEST_HEADERS = ("Authorization", "Content-Type", "X-Request-ID", "traceparent", "tracestate")
RESPONSE_HEADERS = ("Retry-After", "X-Request-ID")


class RootPathMiddleware:
    """Removes the prefix from paths that have it, so that a proxy may keep or strip the prefix.

    It is the outermost middleware, so keys and metrics see paths without the prefix.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{self.root_path}/"):
            scope = {**scope, "path": scope["path"].removeprefix(self.root_path)}
        await self.app(scope, receive, send)


def add_proxy_middleware(app: FastAPI, root_path: str, cors_origins: Sequence[str]) -> None:
    """Add the middleware for the path prefix and CORS around all other middleware."""
    if cors_origins:  # around the keys: a preflight has none, and a page must be able to read a 401
        app.add_middleware(
            CORSMiddleware, allow_origins=cors_origins, allow_methods=("GET", "POST"),
            allow_headers=REQUEST_HEADERS, expose_headers=RESPONSE_HEADERS, max_age=PREFLIGHT_SECONDS,
        )  # fmt: skip
    if root_path:
        app.add_middleware(RootPathMiddleware, root_path=root_path)


def check_proxy_settings(root_path: str, cors_origins: Sequence[str]) -> None:
    """Raises ValueError for a prefix or an origin that no request can have."""
    if root_path and (not ROOT_PATH.fullmatch(root_path) or root_path.split("/")[1] == "v1"):
        raise ValueError(f"--root-path is {root_path}: expected a prefix like /sextet, other than /v1")
    for origin in cors_origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"--cors-origin is {origin}: expected an origin such as https://shop.example.com, or *"
            )
