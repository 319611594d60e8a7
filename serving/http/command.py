"""`python -m serving http`: its arguments, and the processes that it starts."""

import argparse
import os
import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from .settings import Settings

EPILOG = """\
example: python -m serving http --bundle bundle --store store --log shop/events --port 8000
then:    curl localhost:8000/v1/recommendations -H 'Content-Type: application/json' \\
           -d '{"user_id": "900", "basket": [{"item_id": "1095275"}]}'
The routes are described at /docs. SIGTERM ends it after the requests in flight.
exit codes: 1 it cannot start, 2 wrong arguments"""
DEFAULTS = Settings(Path("bundle"))


def add_http_parser(commands: Any) -> None:
    """The arguments of `python -m serving http`."""
    command: argparse.ArgumentParser = commands.add_parser(
        "http",
        help="answer over HTTP",
        description="Answer over HTTP, and follow the bundle's `current` version.\n"
        "An arm of --experiments may name another version, which then answers its users.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add(
        "--bundle", type=Path, default=DEFAULTS.bundle, help="bundle root or version folder (default: bundle)"
    )
    add("--store", metavar="URI", help="event store (default: store.arrow in the bundle root, read-only)")
    add("--log", type=Path, metavar="DIR", help="folder of the impression log (default: no log)")
    add("--host", default="127.0.0.1", help="default: 127.0.0.1; 0.0.0.0 for other machines")
    add("--port", type=int, default=8000, help="default: 8000; 0 for any that is free")
    add("--workers", type=int, default=1, help="processes that share the port (default: 1)")
    add("--threads", type=int, help="checkouts answered at a time per worker (default: cores by workers)")
    add(
        "--deadline-ms", type=float, default=DEFAULTS.deadline_ms, help="from arrival to answer; default: 100"
    )
    add("--limit", type=int, default=DEFAULTS.queue_limit, help="requests that wait per worker (default: 64)")
    add("--max-body", type=int, default=DEFAULTS.max_body, help="bytes of a request (default: 512 KiB)")
    add("--api-key-file", type=Path, help="text file of API keys, one a line (default: no key is asked for)")
    add(
        "--poll-seconds",
        type=float,
        default=DEFAULTS.poll_seconds,
        help="between looks at `current`; default: 1",
    )
    add("--explore", type=float, default=0.0, help="chance that the last slot explores (default: 0, never)")
    add("--experiments", type=Path, metavar="FILE", help="A/B tests (docs/experiments.md); needs --log")
    command.set_defaults(run=run_http)


def run_http(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Serve until a signal. Returns the exit code."""
    try:
        # Cores are shared out; more threads than cores only take turns.
        threads = max(1, min(4, (os.cpu_count() or 1) // max(1, options.workers)))
        settings = Settings(
            options.bundle, options.store, options.log, options.api_key_file, options.deadline_ms,
            threads if options.threads is None else options.threads,
            options.limit, options.max_body, options.poll_seconds, options.explore, options.experiments,
        )  # fmt: skip
        if options.workers < 1 or not 0 <= options.port < 65536:
            raise ValueError("--workers must be 1 or more, --port 0 to 65535")
    except ValueError as error:
        parser.error(str(error))  # exits with 2
    try:
        from . import server
    except ImportError as error:
        print(f"error: {error}. To do: pip install 'sextet[http]'", file=sys.stderr)
        return 1
    try:
        check_settings(settings)
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    several = options.workers > 1
    with tempfile.TemporaryDirectory(prefix="sextet-metrics-") if several else nullcontext() as folder:
        if folder is not None:
            os.environ[server.MULTIPROC_DIR_VARIABLE] = (
                folder  # how prometheus_client is told; workers inherit it
            )
        try:
            server.serve(
                partial(server.create_worker_app, settings), options.host, options.port, options.workers
            )
        except OSError as error:
            print(f"error: {options.host}:{options.port}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            pass
    return 0


def check_settings(settings: Settings) -> None:
    """Open and close what the settings name: better one line now than a worker that will not start."""
    from ..events.impression_log import ImpressionLog
    from ..experiments import assignment
    from .backends import open_service_store
    from .middleware import read_key_hashes

    read_key_hashes(settings.api_key_file)
    if settings.experiments is not None:
        assignment.read_experiments(settings.experiments)
    store = open_service_store(settings.store, settings.bundle) if settings.store else None
    log = None if settings.log is None else ImpressionLog(settings.log)
    for part in (store, log):
        if part is not None:
            part.close()
