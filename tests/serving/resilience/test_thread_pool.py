"""Functions run once each in a bounded number of threads, which end with their owner."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from serving.resilience.thread_pool import ThreadPool

ROOT = Path(__file__).resolve().parents[3]


def nothing() -> None:
    pass


def test_a_function_runs_in_a_thread_that_began() -> None:
    seen: list[int] = []
    begun = threading.local()

    def begin() -> None:
        begun.yes = True

    def one() -> None:
        assert begun.yes
        seen.append(threading.get_ident())

    threads = ThreadPool(3, "some", begin)
    for _ in range(100):  # one after the other: a thread is free again before whoever waits goes on
        assert threads.submit(one).wait(5.0)
    assert len(seen) == 100
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


def test_no_more_threads_than_asked_for_and_the_others_wait() -> None:
    going, at_once = threading.Event(), []
    lock = threading.Lock()

    def one() -> None:
        with lock:
            at_once.append(threading.get_ident())
        going.wait(5.0)

    threads = ThreadPool(2, "some", nothing)
    tasks = [threads.submit(one) for _ in range(5)]
    assert not tasks[0].wait(0.05)
    assert len(at_once) == 2
    assert not tasks[0].cancel()
    assert tasks[4].cancel()
    going.set()
    assert all(task.wait(5.0) for task in tasks[:4])
    assert len(at_once) == 4
    assert len(set(at_once)) == 2
    assert threads.submit(nothing).wait(5.0)


def test_what_a_function_raises_is_told_and_ends_no_thread() -> None:
    def raises() -> None:
        raise ValueError("no")

    threads = ThreadPool(1, "some", nothing)
    with pytest.raises(ValueError, match="no"):
        threads.submit(raises).wait(5.0)
    assert threads.submit(nothing).wait(5.0)


def test_many_at_once_run_once_each() -> None:
    threads, done = ThreadPool(4, "some", nothing), [0] * 400
    lock = threading.Lock()

    def client(first: int) -> None:
        for place in range(first, first + 100):

            def one(place: int = place) -> None:
                with lock:
                    done[place] += 1

            assert threads.submit(one).wait(5.0)

    clients = [threading.Thread(target=client, args=(100 * k,)) for k in range(4)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert done == [1] * 400


def test_threads_end_with_their_owner() -> None:
    names = [f"owned {k}" for k in range(3)]
    threads, going = ThreadPool(3, "owned", nothing), threading.Event()
    tasks = [threads.submit(lambda: going.wait(5.0) and None) for _ in names]
    going.set()
    assert all(task.wait(5.0) for task in tasks)
    gone = weakref.ref(threads)
    del threads, tasks
    gc.collect()
    assert gone() is None
    until = time.monotonic() + 5
    while any(thread.name == "owned" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("work", ["threading.Event().wait", "lambda: spin(torch.tensor(1 << 27))"])
def test_a_process_ends_whatever_still_runs(work: str, tmp_path: Path) -> None:
    """Python's own hangs are left; what is in C++ and will come back to an interpreter is waited for."""
    script = f"""
import threading, time, torch
from serving.resilience.thread_pool import Threads

@torch.jit.script
def spin(n: torch.Tensor) -> torch.Tensor:
    i = torch.zeros([1])
    for _ in range(60000):
        i = i + 1.0
    return i

spin(torch.tensor(1))
threads = Threads(2, "some", lambda: None)
threads.submit(lambda: None).wait()
threads.submit({work})
time.sleep(0.01)
print("asked")
"""
    (tmp_path / "ends.py").write_text(script)
    command = [sys.executable, str(tmp_path / "ends.py")]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (ended.returncode, ended.stdout) == (0, "asked\n"), ended.stderr


def test_a_system_that_gives_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = ThreadPool(3, "some", nothing)

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(nothing)
    going = threading.Event()
    busy = threads.submit(lambda: going.wait(5.0) and None)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        waits = threads.submit(nothing)  # for the one that there is
    assert not waits.wait(0.05)
    assert threads.submit(nothing).wait(5.0)  # one more can be had again
    going.set()
    assert busy.wait(5.0)
    assert waits.wait(5.0)
