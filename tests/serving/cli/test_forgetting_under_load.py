"""A user is forgotten while requests of the user arrive, orders change, and a worker is stopped."""

import json
import os
import signal
import threading
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from tests.serving.forget.traces import traces
from tests.serving.http.services import Command, command, until

pytestmark = pytest.mark.slow

USER, OTHER = "person-7f3a", "u001"
N_VISITS = 200


class Visits(threading.Thread):
    """Orders of a user that are amended, their slates and views, one after the other until it is stopped."""

    def __init__(self, service: Command, user: str) -> None:
        super().__init__()
        self.service, self.user = service, user
        self.failures: list[str] = []
        self.n_visits = 0
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.stopped.is_set() and self.n_visits < N_VISITS:
            order = {"user_id": self.user, "order_id": f"order-{self.user}-{self.n_visits}"}
            basket = [{"item_id": f"i{(self.n_visits + k) % 60:03d}", "price": 2.0} for k in range(3)]
            self.send("/v1/checkouts", {**order, "basket": basket}, 201)
            slate = self.send("/v1/recommendations", {**order, "basket": basket}, 200)
            if slate is not None:
                viewed = {"kind": "viewed", "request_id": slate["request_id"], **order}
                self.send("/v1/feedback", {**viewed, "item_id": slate["items"][0]["item_id"]}, 202)
            self.send("/v1/checkouts", {**order, "basket": basket[:2]}, 201)  # amended
            self.n_visits += 1

    def send(self, path: str, content: dict[str, Any], expected: int) -> Any:
        try:
            status, body = self.service.ask("POST", path, content)
        except OSError:
            return None  # of the stopped worker
        if status != expected:
            self.failures.append(f"{path} {status} {body!r}")
            return None
        return json.loads(body)

    def end(self) -> None:
        self.stopped.set()
        self.join()


def test_a_user_is_forgotten_under_load(version: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    copytree(version.parent, root, symlinks=True)
    (tmp_path / "keys").write_text("admin\n")
    options = [
        "--workers", "2", "--store", str(tmp_path / "store.db"), "--log", str(tmp_path / "events"),
        "--admin-key-file", str(tmp_path / "keys"), "--impressions", "viewed", "--deadline-ms", "5000",
    ]  # fmt: skip
    with command(root, *options, key="admin") as service:
        forgotten, other = Visits(service, USER), Visits(service, OTHER)
        until(lambda: forgotten.n_visits > 5 and other.n_visits > 5)
        status, answer = service.ask("DELETE", f"/v1/users/{USER}")
        assert status in (200, 202), answer  # its requests go on
        until(lambda: other.n_visits > 15)
        forgotten.end()
        os.kill(service.worker_processes()[0], signal.SIGSTOP)

        def is_forgotten() -> bool:
            status, answer = service.ask("DELETE", f"/v1/users/{USER}")
            assert status in (200, 202), answer
            return status == 200

        until(is_forgotten)
        assert [*traces(tmp_path, [USER.encode()], besides=["forgotten.txt"])] == []
        other.end()
        until(service.ready)
        path = f"/v1/orders/order-{OTHER}-{other.n_visits - 1}/cancel"
        assert service.ask("POST", path, {"user_id": OTHER})[0] == 200
        again = Visits(service, USER)  # as a new user
        until(lambda: again.n_visits > 1)
        again.end()
    for visits in (forgotten, other, again):
        assert visits.failures == []
