"""The HTTP service, `sextet serve`. It needs the packages of the extra `sextet[http]`.

request ─ middleware (key, metrics) ─ app (routes) ─ admission ─ recommender ─▶ slate
                                                       ╰─ too late for the models ─▶ fallback, or 503
"""

try:
    import fastapi  # noqa: F401
    import httptools  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
    import uvloop  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"{__name__} needs the package {error.name}: pip install '<wheel>[http]'", name=error.name
    ) from error
