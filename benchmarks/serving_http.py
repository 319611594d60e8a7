"""The HTTP scenarios of benchmarks/serving.py: constant request rates, a bundle swap, and overload.

The client shares the cores with the server and may send late. So a row also has the client's send delay.
Under overload it has the share of responses that were on time by the server's clock.
"""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.commands import ROOT, Row
from benchmarks.open_loop_client import TimedResponse, constant_rate_schedule, run_open_loop
from benchmarks.summaries import latency_percentiles, memory_mb, six_item_share

RECOMMENDATIONS_PATH = "/v1/recommendations"
REQUEST_RATES = (100, 200, 300, 400, 800)  # requests a second
RATE_SECONDS, CALM_SECONDS = 15, 5
SWAP_RATE = 100  # requests a second
WORKERS = 2
OVERLOADS = ((2, 30), (10, 10))  # (multiple of the models' capacity, seconds)


class LoadedService(NamedTuple):
    """A running service and the shop whose checkouts are sent to it."""

    port: int
    process: subprocess.Popen[Any]
    root: Path  # bundle root
    users: int

    def send(self, due: Sequence[float], seed: int) -> list[TimedResponse]:
        """Send a random checkout at each time of a schedule."""
        bodies = request_bodies(self.root, self.users, len(due), seed)
        return run_open_loop(self.port, RECOMMENDATIONS_PATH, bodies, due)


def measure_scenarios(root: Path, users: int) -> list[Row]:
    """Measure one server: a row per rate, one with a bundle swap, and two per overload."""
    rows = []
    with running_server(root) as (port, process):
        service = LoadedService(port, process, root, users)
        service.send(constant_rate_schedule(50, 4), seed=9)  # warms up both workers
        for rate in REQUEST_RATES:
            responses = service.send(constant_rate_schedule(rate, RATE_SECONDS), seed=rate)
            rows.append(scenario_row(f"HTTP, {rate} requests/s for {RATE_SECONDS} s", responses, process))
            time.sleep(2)
        rows.append(measure_swap(service))
        capacity = measure_capacity(port, request_bodies(root, users, 5_000, seed=8))
        for multiple, seconds in OVERLOADS:
            rows += measure_overload(service, capacity, multiple, seconds)
    return rows


def measure_swap(service: LoadedService) -> Row:
    """The row of a constant rate through a bundle swap."""
    with swap_bundle(service.root, RATE_SECONDS / 5):
        responses = service.send(constant_rate_schedule(SWAP_RATE, RATE_SECONDS), seed=7)
        row = scenario_row(f"HTTP, {SWAP_RATE} requests/s, a bundle swap", responses, service.process)
    versions = {response.body["bundle_version"] for response in responses if response.status == 200}
    return row | {"versions": len(versions), "over_time": per_second_stats(responses)}


def measure_capacity(
    port: int, bodies: Sequence[bytes], seconds: float = 5, clients: int = 8 * WORKERS
) -> float:
    """Measure the capacity: ranked requests per second if clients wait for each response before they send."""
    remaining, started = iter(bodies), time.perf_counter()

    def run_client(_: int) -> int:
        connection, ranked = HTTPConnection("127.0.0.1", port, timeout=30), 0
        while time.perf_counter() < started + seconds and (body := next(remaining, None)) is not None:
            connection.request("POST", RECOMMENDATIONS_PATH, body, {"Content-Type": "application/json"})
            if json.loads(connection.getresponse().read()).get("tier") == "ranked":
                ranked += 1
            else:
                time.sleep(0.02)  # the other clients keep the models busy
        connection.close()
        return ranked

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(run_client, range(clients))) / (time.perf_counter() - started)


def measure_overload(service: LoadedService, capacity: float, multiple: int, seconds: float) -> list[Row]:
    """Measure an overload of some seconds at a multiple of the capacity, and the time after it.

    Before and after the overload, the rate is a third of the capacity. The second row begins one second after
    the end of the overload.
    """
    overload_rate, calm_rate = multiple * capacity, capacity / 3
    end = CALM_SECONDS + seconds
    due = [
        *constant_rate_schedule(calm_rate, CALM_SECONDS),
        *constant_rate_schedule(overload_rate, seconds, CALM_SECONDS),
        *constant_rate_schedule(calm_rate, CALM_SECONDS, end),
    ]
    before = server_latency_buckets(service.port)
    responses = service.send(due, seed=multiple)
    after = server_latency_buckets(service.port)
    overload = scenario_row(
        f"HTTP, {multiple} × what the models rank ({overload_rate:.0f}/s), {seconds:g} s",
        [response for response in responses if CALM_SECONDS <= response.due < end], service.process,
    )  # fmt: skip
    n_responses = after["+Inf"] - before["+Inf"]
    n_late = n_responses - (after["0.105"] - before["0.105"])
    overload["server_on_time_share"] = round(1 - n_late / n_responses, 5)
    overload["over_time"] = per_second_stats(responses)
    recovered = [response for response in responses if response.due >= end + 1]
    scenario = f"HTTP, from a second after {multiple} × on ({calm_rate:.0f}/s)"
    return [overload, scenario_row(scenario, recovered, service.process)]


def server_latency_buckets(port: int) -> dict[str, float]:
    """Return the server's latency histogram as upper bound in seconds → number of responses up to it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    prefix = "sextet_request_seconds_bucket{"
    buckets = [line for line in lines if line.startswith(prefix) and f'"{RECOMMENDATIONS_PATH}"' in line]
    return {line.split('le="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in buckets}


@contextmanager
def running_server(root: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run `python -m serving serve` with WORKERS; yield port and process when the service is ready."""
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    command = [sys.executable, "-m", "serving", "serve", "--bundle", str(root), "--port", str(port)]
    command += ["--workers", str(WORKERS), "--threads", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                    break
            except OSError:
                time.sleep(0.25)
        time.sleep(10)  # until the other worker is ready, too
        yield port, process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def swap_bundle(root: Path, delay: float) -> Iterator[None]:
    """Point `current` at a copy of its version after `delay` seconds; undo the change after the block."""
    from exporting.bundle import write_bundle_manifest

    version = (root / "current").resolve()
    copy = root / f"{version.name}-again"
    shutil.copytree(version, copy, dirs_exist_ok=True)
    manifest = json.loads((copy / "manifest.json").read_text())
    write_bundle_manifest({**manifest, "version": copy.name}, copy)

    def point_current_at(name: str) -> None:
        link = root / ".current-benchmark"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.replace(root / "current")

    timer = threading.Timer(delay, point_current_at, [copy.name])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        point_current_at(version.name)
        time.sleep(1)
        shutil.rmtree(copy)


def request_bodies(root: Path, users: int, count: int, seed: int) -> list[bytes]:
    """Return checkouts of random users with five items that sell, at the end of the data."""
    rng = np.random.default_rng(seed)
    items = pa.ipc.open_file(pa.memory_map(str(root / "current" / "items.arrow"))).read_all()
    rows = np.flatnonzero(np.array(items["orders_28d"].to_numpy()) > 0)
    item_ids = items["item_id"].take(rows).to_pylist()
    ts = json.loads((root / "current" / "manifest.json").read_text())["data"]["window"]["end"]
    baskets = rng.integers(0, len(item_ids), (count, 5))
    user_numbers = rng.integers(0, users, count)
    return [
        json.dumps(
            {"user_id": f"u{user}", "ts": ts, "basket": [{"item_id": item_ids[item]} for item in basket]}
        ).encode()
        for user, basket in zip(user_numbers.tolist(), baskets.tolist(), strict=True)
    ]


def scenario_row(scenario: str, responses: Sequence[TimedResponse], process: subprocess.Popen[Any]) -> Row:
    """The row of a scenario: latency percentiles, throughput, tiers and statuses.

    Latency is measured from the time at which the request was due.
    """
    answered = [response for response in responses if response.status == 200]
    end = max(response.due + response.latency_ms / 1e3 for response in responses)
    refused_ms = [response.latency_ms for response in responses if response.status == 503]
    send_delays_ms = [response.send_delay_ms for response in responses]
    return {
        "scenario": scenario,
        **latency_percentiles([response.latency_ms for response in answered], 2),
        "requests_per_s": round(len(answered) / (end - responses[0].due), 1),
        "six_share": six_item_share([[item["item_id"] for item in r.body["items"]] for r in answered]),
        "tiers": dict(Counter(response.body["tier"] for response in answered)),
        "statuses": {str(status): n for status, n in Counter(r.status for r in responses).items()},
        "refused_p99_ms": round(float(np.percentile(refused_ms, 99)), 2) if refused_ms else None,
        "client_send_delay_p99_ms": round(float(np.percentile(send_delays_ms, 99)), 2),
        "max_in_flight": max_in_flight(responses),
        **memory_mb(process.pid),
    }


def max_in_flight(responses: Sequence[TimedResponse]) -> int:
    """The largest number of requests that were sent and not yet answered."""
    sent = [(response.due + response.send_delay_ms / 1e3, 1) for response in responses]
    answered = [(response.due + response.latency_ms / 1e3, -1) for response in responses]
    return max(accumulate(change for _, change in sorted(sent + answered)))


def per_second_stats(responses: Sequence[TimedResponse]) -> list[dict[str, float]]:
    """Return the latencies of the requests due in each second, and the shares ranked and refused."""
    by_second: dict[int, list[TimedResponse]] = {}
    for response in responses:
        by_second.setdefault(int(response.due), []).append(response)
    rows = []
    for second, members in by_second.items():
        answered = [response for response in members if response.status == 200]
        latencies = latency_percentiles([response.latency_ms for response in answered], 2)
        n_ranked = sum(response.body["tier"] == "ranked" for response in answered)
        n_refused = sum(response.status == 503 for response in members)
        rows.append(
            {
                "second": second,
                "p50_ms": latencies["p50_ms"],
                "p99_ms": latencies["p99_ms"],
                "ranked": round(n_ranked / len(members), 4),
                "refused": round(n_refused / len(members), 4),
            }
        )
    return rows
