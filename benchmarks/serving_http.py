"""The HTTP scenarios of benchmarks/serving.py: rates of an open loop, a swap in the middle, and overload.

The client shares the cores with the server. So a row says how late the client itself was in sending, and
under overload how many of its answers the server had ready in time by its own clock.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.open_loop_client import TimedResponse, constant_rate_schedule, run_open_loop

ROOT = Path(__file__).resolve().parent.parent
RECOMMENDATIONS_PATH = "/v1/recommendations"
REQUEST_RATES = (100, 200, 300, 400, 800)  # requests a second
RATE_SECONDS, CALM_SECONDS = 15, 5
WORKERS = 2
OVERLOADS = ((2, 30), (10, 10))  # times what the models alone can answer, for so many seconds


def measure_scenarios(root: Path, users: int) -> list[dict[str, Any]]:
    """A row per rate, one with a swap, and two per overload, against a server that is started for them."""
    rows = []
    with running_server(root) as (port, process):
        run_open_loop(
            port,
            RECOMMENDATIONS_PATH,
            request_bodies(root, users, 200, seed=9),
            constant_rate_schedule(50, 4),
        )  # both workers have met the shapes
        for rate in REQUEST_RATES:
            asked = request_bodies(root, users, rate * RATE_SECONDS, seed=rate)
            answers = run_open_loop(
                port, RECOMMENDATIONS_PATH, asked, constant_rate_schedule(rate, RATE_SECONDS)
            )
            rows.append(scenario_row(f"HTTP, {rate} requests/s for {RATE_SECONDS} s", answers, process))
            time.sleep(2)
        with swap_bundle(root):
            answers = run_open_loop(
                port,
                RECOMMENDATIONS_PATH,
                request_bodies(root, users, 100 * RATE_SECONDS, seed=7),
                constant_rate_schedule(100, RATE_SECONDS),
            )
            rows.append(scenario_row("HTTP, 100 requests/s, a swap in the middle", answers, process))
        versions = {answer.body["bundle_version"] for answer in answers if answer.status == 200}
        rows[-1] |= {"versions": len(versions), "over_time": per_second_stats(answers)}
        capacity = measure_capacity(port, request_bodies(root, users, 5_000, seed=8))
        for times, seconds in OVERLOADS:
            rows += measure_overload(port, process, root, users, capacity, times, seconds)
    return rows


def measure_capacity(
    port: int, asked: Sequence[bytes], seconds: float = 5, clients: int = 8 * WORKERS
) -> float:
    """Requests a second that the models answer: each client asks again when it is answered."""
    left, started = iter(asked), time.perf_counter()

    def ask(_: int) -> int:
        connection, ranked = HTTPConnection("127.0.0.1", port, timeout=30), 0
        while time.perf_counter() < started + seconds and (body := next(left, None)) is not None:
            connection.request("POST", RECOMMENDATIONS_PATH, body, {"Content-Type": "application/json"})
            if json.loads(connection.getresponse().read()).get("tier") == "ranked":
                ranked += 1
            else:
                time.sleep(0.02)  # the others keep the models busy
        connection.close()
        return ranked

    with ThreadPoolExecutor(clients) as shops:
        return sum(shops.map(ask, range(clients))) / (time.perf_counter() - started)


def measure_overload(
    port: int, process: subprocess.Popen[bytes], root: Path, users: int, capacity: float, times: int,
    seconds: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row of `times` the capacity for some seconds between two calm stretches, and one of the latter of
    these, from a second after the overload."""
    rate, ends = times * capacity, CALM_SECONDS + seconds
    calm = capacity / 3
    due = [
        *constant_rate_schedule(calm, CALM_SECONDS),
        *constant_rate_schedule(rate, seconds, CALM_SECONDS),
        *constant_rate_schedule(calm, CALM_SECONDS, ends),
    ]
    before = server_latency_buckets(port)
    answers = run_open_loop(
        port, RECOMMENDATIONS_PATH, request_bodies(root, users, len(due), seed=times), due
    )
    after = server_latency_buckets(port)
    over = scenario_row(
        f"HTTP, {times} × what the models rank ({rate:.0f}/s), {seconds:g} s",
        [answer for answer in answers if CALM_SECONDS <= answer.due < ends], process,
    )  # fmt: skip
    late = (after["+Inf"] - before["+Inf"]) - (after["0.105"] - before["0.105"])
    over["in_time_by_server"] = round(1 - late / (after["+Inf"] - before["+Inf"]), 5)
    over["over_time"] = per_second_stats(answers)
    recovered = [answer for answer in answers if answer.due >= ends + 1]
    return [over, scenario_row(f"HTTP, from a second after {times} × on ({calm:.0f}/s)", recovered, process)]


def server_latency_buckets(port: int) -> dict[str, float]:
    """Answers of the service by the time that they took, cumulated: upper bound in seconds → how many."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    named = "sextet_request_seconds_bucket{"
    found = [line for line in lines if line.startswith(named) and f'"{RECOMMENDATIONS_PATH}"' in line]
    return {line.split('le="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in found}


@contextmanager
def running_server(root: Path) -> Any:
    """Port and process of `python -m serving http` with WORKERS, ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serving", "http", "--bundle", str(root), "--port", str(port)]
    command += ["--workers", str(WORKERS), "--threads", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                    break
            except OSError:
                time.sleep(0.25)
        time.sleep(10)  # the other worker, too
        yield port, process
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def swap_bundle(root: Path) -> Any:
    """Within, `current` points at a copy of its version under another name, after a third of the time."""
    import threading

    from exporting.bundle import write_bundle_manifest

    first = (root / "current").resolve()
    other = root / f"{first.name}-again"
    shutil.copytree(first, other, dirs_exist_ok=True)
    manifest = json.loads((other / "manifest.json").read_text())
    write_bundle_manifest({**manifest, "version": other.name}, other)

    def point(name: str) -> None:
        link = root / ".current-benchmark"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.replace(root / "current")

    timer = threading.Timer(RATE_SECONDS / 5, point, [other.name])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        point(first.name)
        time.sleep(1)
        shutil.rmtree(other)


def request_bodies(root: Path, users: int, count: int, seed: int) -> list[bytes]:
    """Checkouts of random users with five items that sell, at the end of the data."""
    import pyarrow as pa

    rng = np.random.default_rng(seed)
    items = pa.ipc.open_file(pa.memory_map(str(root / "current" / "items.arrow"))).read_all()
    sold = np.flatnonzero(np.array(items["orders_28d"].to_numpy()) > 0)
    ids = items["item_id"].take(sold).to_pylist()
    now = json.loads((root / "current" / "manifest.json").read_text())["data"]["window"]["end"]
    baskets = rng.integers(0, len(ids), (count, 5))
    people = rng.integers(0, users, count)
    return [
        json.dumps(
            {"user_id": f"u{user}", "ts": now, "basket": [{"item_id": ids[item]} for item in basket]}
        ).encode()
        for user, basket in zip(people.tolist(), baskets.tolist(), strict=True)
    ]


def scenario_row(
    scenario: str, answers: Sequence[TimedResponse], process: subprocess.Popen[bytes]
) -> dict[str, Any]:
    """Percentiles of what was answered, from when it was due, and how much was."""
    good = [answer for answer in answers if answer.status == 200]
    taken = [answer.latency_ms for answer in good] or [float("nan")]
    quantiles = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "p999_ms": 99.9}
    six = [len({item["item_id"] for item in answer.body["items"]}) == 6 for answer in good]
    last = max(answer.due + answer.latency_ms / 1e3 for answer in answers)
    refused = [answer.latency_ms for answer in answers if answer.status == 503]
    return {
        "scenario": scenario,
        **{name: round(float(np.percentile(taken, q)), 2) for name, q in quantiles.items()},
        "requests_per_s": round(len(good) / (last - answers[0].due), 1),
        "six_share": float(np.mean(six)) if six else 0.0,
        "tiers": dict(Counter(answer.body["tier"] for answer in good)),
        "statuses": {str(status): n for status, n in Counter(answer.status for answer in answers).items()},
        "refused_p99_ms": round(float(np.percentile(refused, 99)), 2) if refused else None,
        "client_late_p99_ms": round(
            float(np.percentile([answer.send_delay_ms for answer in answers], 99)), 2
        ),
        "open_at_once": max_in_flight(answers),
        **memory_mb(process.pid),
    }


def max_in_flight(answers: Sequence[TimedResponse]) -> int:
    """How many requests were sent and not yet answered, at most."""
    sent = [(answer.due + answer.send_delay_ms / 1e3, 1) for answer in answers]
    answered = [(answer.due + answer.latency_ms / 1e3, -1) for answer in answers]
    return max(accumulate(change for _, change in sorted(sent + answered)))


def per_second_stats(answers: Sequence[TimedResponse]) -> list[dict[str, float]]:
    """For the requests due in each second: times of the answers, and shares that were ranked and refused."""
    seconds: dict[int, list[TimedResponse]] = {}
    for answer in answers:
        seconds.setdefault(int(answer.due), []).append(answer)
    found = []
    for second, mine in seconds.items():
        good = [answer for answer in mine if answer.status == 200]
        taken = [answer.latency_ms for answer in good] or [float("nan")]
        found.append(
            {
                "second": second,
                "p50_ms": round(float(np.percentile(taken, 50)), 2),
                "p99_ms": round(float(np.percentile(taken, 99)), 2),
                "ranked": round(sum(answer.body["tier"] == "ranked" for answer in good) / len(mine), 4),
                "refused": round(sum(answer.status == 503 for answer in mine) / len(mine), 4),
            }
        )
    return found


def memory_mb(pid: int) -> dict[str, int]:
    """Resident MB of a process and those that it started: `rss_mb` counts what they share for each of them,
    `pss_mb` once (a page of n processes is a proportional 1/n of each; Linux, smaps_rollup)."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        pids += [int(child) for child in (task / "children").read_text().split()]
    kb: Counter[str] = Counter()
    for one in pids:
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()[1:]:
            name, size, _ = line.split()
            kb[name] += int(size)
    return {"rss_mb": kb["Rss:"] // 1024, "pss_mb": kb["Pss:"] // 1024}
