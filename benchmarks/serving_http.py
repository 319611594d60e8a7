"""The HTTP scenarios of benchmarks/serving.py: rates of an open loop, and a swap in the middle."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.open_loop import Answer, drive

ROOT = Path(__file__).resolve().parent.parent
PATH = "/v1/recommendations"
RATES = (100, 200, 300, 400, 800)  # requests a second
SECONDS = 15
WORKERS = 2


def scenarios(root: Path, users: int) -> list[dict[str, Any]]:
    """A row per rate, and one with a swap, against a server that is started for them."""
    rows = []
    with server(root) as (port, process):
        drive(port, PATH, bodies(root, users, 200, seed=9), 50)  # both workers have met the shapes
        for rate in RATES:
            answers = drive(port, PATH, bodies(root, users, rate * SECONDS, seed=rate), rate)
            rows.append(row(f"HTTP, {rate} requests/s for {SECONDS} s", answers, rate, process))
            time.sleep(2)
        with swapped(root):
            answers = drive(port, PATH, bodies(root, users, 100 * SECONDS, seed=7), 100)
            rows.append(row("HTTP, 100 requests/s, a swap in the middle", answers, 100, process))
        versions = {answer.body["bundle_version"] for answer in answers if answer.status == 200}
        rows[-1]["versions"] = len(versions)
    return rows


@contextmanager
def server(root: Path) -> Any:
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
def swapped(root: Path) -> Any:
    """Within, `current` points at a copy of its version under another name, after a third of the time."""
    import threading

    from exporting.bundle import write_manifest

    first = (root / "current").resolve()
    other = root / f"{first.name}-again"
    shutil.copytree(first, other, dirs_exist_ok=True)
    manifest = json.loads((other / "manifest.json").read_text())
    write_manifest({**manifest, "version": other.name}, other)

    def point(name: str) -> None:
        link = root / ".current-benchmark"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.replace(root / "current")

    timer = threading.Timer(SECONDS / 5, point, [other.name])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        point(first.name)
        time.sleep(1)
        shutil.rmtree(other)


def bodies(root: Path, users: int, count: int, seed: int) -> list[bytes]:
    """Checkouts of random users with five items that sell, at the end of the data."""
    import pyarrow as pa

    rng = np.random.default_rng(seed)
    items = pa.ipc.open_file(pa.memory_map(str(root / "current" / "items.arrow"))).read_all()
    sold = np.flatnonzero(np.array(items["popularity"].to_numpy()) > 0)
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


def row(scenario: str, answers: list[Answer], rate: int, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Percentiles of what was answered, and how much was."""
    good = [answer for answer in answers if answer.status == 200]
    taken = [answer.taken_ms for answer in good] or [float("nan")]
    quantiles = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "p999_ms": 99.9}
    six = [len({item["item_id"] for item in answer.body["items"]}) == 6 for answer in good]
    last = max(answer.due + answer.taken_ms / 1e3 for answer in answers)
    return {
        "scenario": scenario,
        **{name: round(float(np.percentile(taken, q)), 2) for name, q in quantiles.items()},
        "requests_per_s": round(len(good) / last, 1),
        "six_share": float(np.mean(six)) if six else 0.0,
        "tiers": dict(Counter(answer.body["tier"] for answer in good)),
        "statuses": {str(status): n for status, n in Counter(answer.status for answer in answers).items()},
        **memory(process.pid),
    }


def memory(pid: int) -> dict[str, int]:
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
