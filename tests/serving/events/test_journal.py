"""Logged records outlive the process, whenever it is killed and whoever else logs into the folder."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from serving import ImpressionLog
from serving.events.impression_log import SCHEMA, SlateRecord, records_to_batch
from serving.events.journal import Journal
from tests.serving.events.logs import TS, checkout, forked, requests, slate, wait_for


def test_a_kill_loses_no_record_that_was_flushed(tmp_path: Path) -> None:
    """Three processes log side by side; each is killed once its log has flushed 100 records."""

    def serve(name: str) -> Callable[[], None]:
        def work() -> None:
            log = ImpressionLog(tmp_path / "events", rotate_rows=3000)
            with (tmp_path / name).open("w", buffering=1) as file:
                for k in range(10**6):
                    log.log_slate(checkout(), slate(f"{name}-{k:06d}"))
                    file.write(f"{log.written_count}\n")
                    time.sleep(0.002)

        return work

    children = {name: forked(serve(name)) for name in "abc"}
    for name, child in children.items():
        wait_for(lambda name=name: written(tmp_path / name) >= 100)  # type: ignore[misc]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    ImpressionLog(tmp_path / "events").close()
    logged_requests = requests(tmp_path / "events")
    for name in children:
        names = [request for request in logged_requests if request.startswith(name)]
        assert names == [f"{name}-{k:06d}" for k in range(len(names))], "a whole beginning, once"
        assert len(names) >= written(tmp_path / name)


def written(file: Path) -> int:
    """The last count of written records in a file of counts, one a line."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return int(lines[-1]) if lines else 0


def test_killed_again_and_again(tmp_path: Path, quick: None) -> None:
    """While it writes, rotates and finishes the journals of the process before it."""
    counts, rng = tmp_path / "counts", random.Random(7)
    counts.mkdir()

    def work() -> None:
        log = ImpressionLog(tmp_path / "events", rotate_rows=600)
        with (counts / str(os.getpid())).open("w", buffering=1) as file:
            for k in range(10**6):
                log.log_slate(checkout(), slate(f"{os.getpid()}-{k:06d}"))
                file.write(f"{log.written_count}\n")
                time.sleep(0.0005)

    n_lives = 0
    while n_lives < 15 or sum(map(written, counts.iterdir())) <= 500:
        assert n_lives < 500, "the log writes nothing"
        child = forked(work)
        time.sleep(rng.uniform(0.05, 0.5))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        n_lives += 1
    ImpressionLog(tmp_path / "events").close()
    assert {file.suffix for file in (tmp_path / "events").iterdir()} <= {".parquet", ".partial"}
    logged_requests = requests(tmp_path / "events")
    for file in counts.iterdir():
        names = [request for request in logged_requests if request.startswith(f"{file.name}-")]
        assert names == [f"{file.name}-{k:06d}" for k in range(len(names))]
        assert len(names) >= written(file)


def test_a_torn_journal_keeps_its_whole_batches(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "whole", SCHEMA)
    ends = [journal.path.stat().st_size]
    for k in range(3):
        journal.append(records_to_batch([SlateRecord("u1", None, TS, slate(f"r{k}"), "")]))
        ends.append(journal.path.stat().st_size)
    journal.release()
    content = journal.path.read_bytes()
    assert len(content) == ends[-1]

    def recovered(name: str, torn: bytes) -> list[str]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / journal.path.name).write_bytes(torn)
        ImpressionLog(folder).close()
        assert not list(folder.glob("*.journal"))
        return requests(folder)

    for size in (0, 3, ends[0] - 1, *ends, *(end + 4 for end in ends[:-1]), *(end - 1 for end in ends[1:])):
        n_whole = sum(end <= size for end in ends[1:])
        assert recovered(f"cut-{size}", content[:size]) == [f"r{k}" for k in range(n_whole)]
    # A power cut leaves the length of the file, and zeros for its content.
    assert recovered("zeros", content[: ends[2]] + bytes(ends[3] - ends[2])) == ["r0", "r1"]
    flipped = bytearray(content)
    flipped[ends[2] + 200] ^= 1
    assert recovered("flipped", bytes(flipped)) == ["r0", "r1"]
    assert recovered("behind", content + b"left by a failed write") == ["r0", "r1", "r2"]


def test_a_kill_between_the_parquet_file_and_the_end_of_its_journal(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, SCHEMA)
    journal.append(records_to_batch([SlateRecord("u1", None, TS, slate("r"), "")]))
    content = journal.path.read_bytes()
    journal.finish()
    journal.path.write_bytes(content)
    ImpressionLog(tmp_path).close()
    assert requests(tmp_path) == ["r"]
    assert len(list(tmp_path.iterdir())) == 1


def test_processes_share_a_folder(tmp_path: Path, quick: None) -> None:
    """Each with its own journals; a log that was opened before the fork serves both sides of it."""
    log = ImpressionLog(tmp_path, rotate_rows=100)
    log.log_slate(checkout(), slate("before"))

    def work() -> None:
        for k in range(100):
            log.log_slate(checkout(), slate(f"{os.getpid()}-{k:03d}"))
            if k % 10 == 0:
                ImpressionLog(tmp_path).close()  # looks for orphaned journals
        log.close()

    children = [forked(work) for _ in range(3)]
    for k in range(100):
        log.log_slate(checkout(), slate(f"parent-{k:03d}"))
        time.sleep(0.001)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    log.close()
    names = [f"{who}-{k:03d}" for who in (*children, "parent") for k in range(100)]
    assert requests(tmp_path) == sorted([*names, "before"])
    assert {file.suffix for file in tmp_path.iterdir()} == {".parquet"}
