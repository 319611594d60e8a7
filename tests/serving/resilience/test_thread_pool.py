"""Tasks run once each in a bounded number of threads, which end with their pool."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from serving.resilience.thread_pool import ThreadPool
from tests.serving.http.services import until

ROOT = Path(__file__).resolve().parents[3]


def do_nothing() -> None:
    pass


def test_a_function_runs_in_an_initialized_thread() -> None:
    thread_ids: list[int] = []
    local = threading.local()

    def initialize() -> None:
        local.is_initialized = True

    def task() -> None:
        assert local.is_initialized
        thread_ids.append(threading.get_ident())

    pool = ThreadPool(3, "pool", initialize)
    for _ in range(100):  # in turn: a thread is idle again before its caller goes on
        assert pool.submit(task).wait(60.0)
    assert len(thread_ids) == 100
    assert len(set(thread_ids)) == 1
    assert thread_ids[0] != threading.get_ident()


def test_no_more_than_max_threads_run_and_other_tasks_wait() -> None:
    release = threading.Event()
    thread_ids: list[int] = []
    lock = threading.Lock()

    def task() -> None:
        with lock:
            thread_ids.append(threading.get_ident())
        release.wait(60.0)

    pool = ThreadPool(2, "pool", do_nothing)
    tasks = [pool.submit(task) for _ in range(5)]
    until(lambda: len(thread_ids) == 2)
    assert not tasks[0].wait(0.05)
    assert len(thread_ids) == 2
    assert not tasks[0].cancel()
    assert tasks[4].cancel()
    release.set()
    assert all(task.wait(60.0) for task in tasks[:4])
    assert len(thread_ids) == 4
    assert len(set(thread_ids)) == 2
    assert pool.submit(do_nothing).wait(60.0)


def test_an_error_reaches_the_caller_and_ends_no_thread() -> None:
    def fail() -> None:
        raise ValueError("no")

    pool = ThreadPool(1, "pool", do_nothing)
    with pytest.raises(ValueError, match="no"):
        pool.submit(fail).wait(60.0)
    assert pool.submit(do_nothing).wait(60.0)


def test_concurrent_tasks_run_once_each() -> None:
    pool, runs = ThreadPool(4, "pool", do_nothing), [0] * 400
    lock = threading.Lock()

    def submit_tasks(start: int) -> None:
        for number in range(start, start + 100):

            def task(number: int = number) -> None:
                with lock:
                    runs[number] += 1

            assert pool.submit(task).wait(60.0)

    clients = [threading.Thread(target=submit_tasks, args=(100 * client,)) for client in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert runs == [1] * 400


def test_threads_end_with_their_pool() -> None:
    pool, release = ThreadPool(3, "owned", do_nothing), threading.Event()
    tasks = [pool.submit(lambda: release.wait(60.0) and None) for _ in range(3)]
    release.set()
    assert all(task.wait(60.0) for task in tasks)
    reference = weakref.ref(pool)
    del pool, tasks
    gc.collect()
    assert reference() is None
    until(lambda: all(thread.name != "owned" for thread in threading.enumerate()))


@pytest.mark.parametrize("work", ["threading.Event().wait", "lambda: spin(torch.tensor(1 << 27))"])
def test_a_process_ends_while_tasks_run(work: str, tmp_path: Path) -> None:
    """It does not wait for a hanging Python call, and waits for C++ that returns to the interpreter."""
    script = f"""
import threading, time, torch
from serving.resilience.thread_pool import ThreadPool

@torch.jit.script
def spin(n: torch.Tensor) -> torch.Tensor:
    i = torch.zeros([1])
    for _ in range(60000):
        i = i + 1.0
    return i

spin(torch.tensor(1))
pool = ThreadPool(2, "pool", lambda: None)
pool.submit(lambda: None).wait()
pool.submit({work})
time.sleep(0.01)
print("submitted")
"""
    (tmp_path / "ends.py").write_text(script)
    command = [sys.executable, str(tmp_path / "ends.py")]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (ended.returncode, ended.stdout) == (0, "submitted\n"), ended.stderr


def test_a_system_that_gives_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ThreadPool(3, "pool", do_nothing)

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.submit(do_nothing)
    release = threading.Event()
    running = pool.submit(lambda: release.wait(60.0) and None)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        waiting = pool.submit(do_nothing)  # for the only thread
    assert not waiting.wait(0.05)
    assert pool.submit(do_nothing).wait(60.0)  # threads can start again
    release.set()
    assert running.wait(60.0)
    assert waiting.wait(60.0)
