"""The configuration of a worker, as plain values that can be pickled."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .logs import LogFormat
from .proxy import check_proxy_settings
from .tracing import check_endpoint


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one worker. Raises ValueError for a value out of range.

    Args:
        bundle: bundle root, whose `current` is checked for a new version, or a version folder.
        store: URI of the event store; None for `store.arrow` in the bundle root, read-only, if there is one.
        live: SQLite file or server of the live state (serving/stores/live_state.py). None: the live state is
            in the store if the store can hold one, else in `live.sqlite` in the bundle root.
        log: folder of the impression log; None for no log.
        api_key_file: text file with one API key per line (several during a rotation); None for no keys.
        admin_key_file: keys for the routes of administrators (serving/http/keys.py); None turns them off.
        deadline_ms: milliseconds from a request's arrival to its answer.
        threads: checkouts that are answered at the same time.
        queue_limit: maximum number of requests that wait for the models or the store; further requests get
            popular items or are refused.
        max_body: maximum bytes of a request's body.
        poll_seconds: seconds between two checks of `current`.
        load_timeout: seconds after which a version that is still loading is refused.
        explore: chance that the last slot of a slate explores, from 0 (never) to 1
            (serving/pipeline/explore.py).
        experiments: TOML file of the running experiments (serving/experiments/declaration.py);
            None for none. It needs `log`.
        rules: TOML file of the shop's rules (serving/pipeline/rules/document.py); None for none. It is read
            again when it changes.
        messages: TOML file of texts of reasons (serving/pipeline/messages.py); None for the release's texts.
        log_format: format of the log lines on stderr, text or json.
        access_log: whether the log gets a line for every request.
        trace_endpoint: URL of an OpenTelemetry collector (OTLP over HTTP); None for no traces.
        trace_sample: share of the requests without a traceparent that are traced, from 0 to 1.
        root_path: prefix of all paths at a proxy (/sextet), which may keep or strip the prefix; "" for none.
        cors_origins: origins of pages that may call the service from a browser; "*" for any.
        trust: public keys, one of which must have signed a version (serving/storage/signatures.py). Without
            keys, versions need no signature.
        impressions: the slates that the frequency cap counts: all, or those with feedback `viewed`.
    """

    bundle: Path
    store: str | None = None
    log: Path | None = None
    api_key_file: Path | None = None
    admin_key_file: Path | None = None
    deadline_ms: float = 100.0
    threads: int = min(4, os.cpu_count() or 1)
    queue_limit: int = 64
    max_body: int = 512 * 1024
    poll_seconds: float = 1.0
    load_timeout: float = 120.0
    explore: float = 0.0
    experiments: Path | None = None
    live: str | None = None
    rules: Path | None = None
    messages: Path | None = None
    log_format: LogFormat = "text"
    access_log: bool = False
    trace_endpoint: str | None = None
    trace_sample: float = 0.01
    root_path: str = ""
    cors_origins: tuple[str, ...] = ()
    trust: tuple[Path, ...] = ()
    impressions: Literal["served", "viewed"] = "served"

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("queue_limit", 1), ("max_body", 1024)):
            if getattr(self, name) < least:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} is {getattr(self, name)}: expected {least} or more")
        if not 1 <= self.deadline_ms <= 60_000:
            raise ValueError(f"--deadline-ms is {self.deadline_ms}: expected 1 to 60000")
        if not 0 <= self.explore <= 1:
            raise ValueError(f"--explore is {self.explore}: expected a share from 0 to 1")
        if self.experiments is not None and self.log is None:
            raise ValueError("--experiments needs --log: an experiment is analysed from the impression log")
        if not 0 <= self.trace_sample <= 1:
            raise ValueError(f"--trace-sample is {self.trace_sample}: expected a share from 0 to 1")
        if self.trace_endpoint is not None:
            check_endpoint(self.trace_endpoint)
        for name in ("poll_seconds", "load_timeout"):
            if not getattr(self, name) > 0:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} is {getattr(self, name)}: expected more than 0")
        check_proxy_settings(self.root_path, self.cors_origins)
