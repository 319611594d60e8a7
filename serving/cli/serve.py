"""`serve`: the HTTP service, in one process or several."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..command_line import describe_error, option, option_specs
from ..storage.bundle_mirror import bundle_path
from .bundle_options import trust_option
from .config_file import OptionValue, format_config, name_origins, resolve_options

if TYPE_CHECKING:
    from ..http.settings import Settings

MAX_DEFAULT_THREADS = 4  # of a worker
USUAL_DEADLINE_MS = 10.0  # a ranked slate takes some 6 ms and leaves 2 in reserve
MAX_DRAIN_SECONDS = 15.0  # a stop takes 25 s at most


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    r"""Answer over HTTP with the bundle's `current` version, and load each new version.
    An arm of --experiments may name another version, which then answers the users of the arm.

    example: %(prog)s --bundle bundle --store store --log shop/events --port 8000
    then:    curl localhost:8000/v1/recommendations -H 'Content-Type: application/json' \
               -d '{"user_id": "900", "basket": [{"item_id": "1095275"}]}'
    The routes are described at /docs. SIGTERM ends the service after the requests in flight.

    Every option can also be set in the TOML file of --config (deadline_ms = 80) or in the environment
    (SEXTET_DEADLINE_MS=80). A flag overrides the environment, and the environment overrides the file.

    exit codes: 1 the service cannot start, 2 wrong arguments
    """

    bundle: Path = option(
        Path("bundle"), "bundle root or version folder; or s3://, gs://, abfs://", parse=bundle_path
    )
    store: str | None = option(
        None, "event store (default: store.arrow of the bundle root, read-only)", metavar="URI"
    )
    live: str | None = option(
        None, "live state, for live rules and items: a file or redis:// (default: the store)",
        metavar="URI",
    )  # fmt: skip
    log: Path | None = option(None, "folder of the impression log (default: no log)", metavar="DIR")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 for all interfaces")
    port: int = option(8000, "port; 0 for any free port")
    workers: int = option(1, "number of processes that share the port")
    threads: int | None = option(
        None, "checkouts answered at the same time per worker (default: cores / workers, at most 4)"
    )
    deadline_ms: float = option(100.0, "milliseconds from arrival to answer")
    queue_limit: int = option(64, "largest number of waiting requests per worker", flag="--limit")
    max_body: int = option(512 * 1024, "maximum bytes of a request's body")
    api_key_file: Path | None = option(None, "text file of API keys, one a line (default: no key is needed)")
    admin_key_file: Path | None = option(
        None, "text file of admin keys, one a line (default: the routes of administrators are off)"
    )
    poll_seconds: float = option(1.0, "seconds between two checks of `current`")
    load_timeout: float = option(120.0, "seconds after which a version that is still loading is refused")
    drain_seconds: float = option(
        0.0, "seconds after SIGTERM in which the service still answers but is not ready"
    )
    explore: float = option(0.0, "probability that the last slot explores")
    trust: tuple[Path, ...] = trust_option()
    impressions: Literal["served", "viewed"] = option(
        "served", "slates that the frequency cap counts: all, or those with feedback `viewed`"
    )
    experiments: Path | None = option(
        None, "file of A/B tests (docs/how_to/run_an_ab_test.md); needs --log", metavar="FILE"
    )
    rules: Path | None = option(
        None, "file of the shop's rules (docs/how_to/rules.md), reloaded when it changes", metavar="FILE"
    )
    messages: Path | None = option(
        None,
        "file of texts for reasons (docs/how_to/show_reasons.md), which replace the texts of the release",
        metavar="FILE",
    )
    log_format: Literal["text", "json"] = option("text", "format of the log on stderr")
    access_log: bool = option(False, "log every request")
    trace_endpoint: str | None = option(
        None, "OpenTelemetry collector, http://host:4318/v1/traces (default: no traces)", metavar="URL"
    )
    trace_sample: float = option(0.01, "share of the requests that are traced")
    root_path: str = option("", "prefix of all paths at a proxy, such as /sextet", metavar="PREFIX")
    forwarded_allow_ips: str = option(
        "127.0.0.1", "addresses of proxies whose X-Forwarded-* headers are trusted; * for any", metavar="IPS"
    )
    cors_origins: tuple[str, ...] = option(
        (), "origins of pages that may call from a browser; * for any", flag="--cors-origin", metavar="URL"
    )
    config: Path | None = option(None, "TOML file with values of these options", metavar="FILE")
    print_config: bool = option(False, "check the options, print them with their origins, and exit")
    # By field, with their origins; empty where the options were made in Python.
    values: Mapping[str, OptionValue] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_arguments(cls, **flags: Any) -> "ServeOptions":
        """The options of the command line, the environment and --config. Raises ValueError or OSError."""
        values = resolve_options(cls, flags, os.environ)
        try:
            return cls(**{name: value.value for name, value in values.items()}, values=values)
        except ValueError as error:
            raise ValueError(name_origins(str(error), values, option_specs(cls))) from None

    def __post_init__(self) -> None:
        if self.workers < 1 or not 0 <= self.port < 65536:
            raise ValueError("--workers must be 1 or more, --port 0 to 65535")
        if not 0 <= self.drain_seconds <= MAX_DRAIN_SECONDS:
            raise ValueError(f"--drain-seconds must be 0 to {MAX_DRAIN_SECONDS:g}")
        self.worker_settings()

    def worker_settings(self) -> "Settings":
        """Settings of a worker. Raises ValueError for a value out of range, ImportError without the extra."""
        from ..http.settings import Settings

        # The workers share the cores; more threads than cores only take turns.
        default_threads = max(1, min(MAX_DEFAULT_THREADS, (os.cpu_count() or 1) // self.workers))
        values = {setting.name: getattr(self, setting.name) for setting in fields(Settings)}
        if self.threads is None:
            values["threads"] = default_threads
        return Settings(**values)


def serve(options: ServeOptions) -> int:
    """Serve until a signal. Returns the exit code."""
    from ..http.logs import configure_logging, log_start

    settings = options.worker_settings()
    config = format_config(options.values, option_specs(ServeOptions)) if options.values else []
    if options.print_config:
        check_settings(settings)
        print("\n".join(config))
        return 0
    configure_logging(settings.log_format, settings.access_log)
    try:
        check_settings(settings)
        for line in config:
            log_start(line)
        if settings.deadline_ms < USUAL_DEADLINE_MS:
            logging.warning(
                "--deadline-ms is %g: below %g most slates are bestsellers, because no model can answer",
                settings.deadline_ms, USUAL_DEADLINE_MS,
            )  # fmt: skip
        _serve_until_signal(options, settings)
    except Exception as error:
        if settings.log_format == "text":
            raise
        text = describe_error(error, ServeOptions, options)
        logging.critical("the service ends: %s", text, exc_info=error)
        return 1
    return 0


def _serve_until_signal(options: ServeOptions, settings: "Settings") -> None:
    from ..http import server

    create_app = partial(server.create_worker_app, settings)
    try:
        server.serve(
            create_app, options.host, options.port, options.workers, options.forwarded_allow_ips,
            options.drain_seconds,
        )  # fmt: skip
    except OSError as error:
        raise OSError(f"{options.host}:{options.port}: {error}") from error


def check_settings(settings: "Settings") -> None:
    """Open and close the files of the settings, so that a wrong file gives a one-line error."""
    from ..events.impression_log import ImpressionLog
    from ..events.log_folder import check_log_folder
    from ..experiments.declaration import read_experiments
    from ..http.backends import open_service_store
    from ..http.keys import ApiKeys
    from ..pipeline.messages import read_messages
    from ..pipeline.rules.document import read_rules
    from ..storage.signatures import read_trusted_keys
    from ..stores.uri import open_live_state

    ApiKeys(settings.api_key_file, settings.admin_key_file)
    read_trusted_keys(settings.trust)
    if settings.experiments is not None:
        read_experiments(settings.experiments)
    if settings.rules is not None:
        read_rules(settings.rules)
    if settings.messages is not None:
        read_messages(settings.messages)
    store = open_service_store(settings.store, settings.bundle) if settings.store else None
    if settings.live is not None:
        open_live_state(settings.live)
    log = None
    if settings.log is not None:
        check_log_folder(settings.log)
        log = ImpressionLog(settings.log)
    for resource in (store, log):
        if resource is not None:
            resource.close()
