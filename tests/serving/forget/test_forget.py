"""`sextet forget`: what it does where, says and refuses."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from serving import Event, open_store
from serving.cli import main
from serving.events.impression_log import ImpressionLog
from serving.forget import forget
from serving.forget.forget import Places, forget_users
from serving.stores.uri import open_live_state
from tests.serving.events.logs import TS, checkout, logged, slate
from tests.serving.forget.traces import traces


class Unable:
    """A store of a shop that cannot delete users."""

    def get(self, user_id: str) -> None: ...


def test_a_place_that_fails_waits_and_the_others_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(tmp_path / "store.sqlite")
    store.append("u1", [Event("i1", 1_711_234_567)])
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "20990101T000000-1-ab.parquet").write_bytes(b"no file")
    (tmp_path / "users.txt").write_text("u1\n# by mail\nu2\n")
    arguments = ["--store", str(tmp_path / "store.sqlite"), "--log", str(tmp_path / "log")]
    assert main(["forget", "--from", str(tmp_path / "users.txt"), *arguments]) == 1
    printed = capsys.readouterr()
    assert "store: 1 record\n" in printed.out
    assert "nothing was found" not in printed.out
    assert "not touched: --bundle (not given)" in printed.out
    assert "20990101T000000-1-ab.parquet cannot be read" in printed.err
    damaged = ["20990101T000000-1-ab.parquet"]
    assert [*traces(tmp_path, [b"i1", (1_711_234_567).to_bytes(8, "little")], besides=damaged)] == []
    (tmp_path / "log" / "20990101T000000-1-ab.parquet").unlink()
    assert main(["forget", "u1", *arguments]) == 0
    assert (tmp_path / "forgotten.txt").read_text() == "u1\nu2\n"
    store.close()


def test_a_store_without_the_method_is_named(tmp_path: Path) -> None:
    removal = forget_users(["u1"], Places(store=Unable(), user_list=tmp_path / "list.txt"))
    (reason,) = removal.waiting
    assert reason.startswith("store: a Unable has no method forget(user_ids)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name users"),
        (["u1"], "name the places to remove the users from"),
        (["u1", "--log", "nowhere"], "there is no such folder"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["forget", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("user_id", ["", "\ud800"])
def test_an_id_that_nobody_can_have_changes_nothing(tmp_path: Path, user_id: str) -> None:
    with pytest.raises(ValueError, match=r"empty|surrogates"):
        forget_users(["u1", user_id], Places(user_list=tmp_path / "list.txt"))
    assert not [*tmp_path.iterdir()]


def test_a_missing_store_is_not_created(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", "u1", "--store", str(tmp_path / "none.sqlite")]) == 1
    assert "no such event store" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_whichever_step_was_the_last_the_next_removal_completes_it(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the first, the second, … replacement of a file, or before a place."""
    needles = [b"person-7f3a", b"request-7f3a", (1_711_234_567).to_bytes(8, "little")]
    n_steps = 0
    for last in range(1, 100):
        folder = tmp_path / str(last)
        root = folder / "bundle"
        root.mkdir(parents=True)
        (root / "store.arrow").write_bytes(arrow_store(version.parent / "store.arrow"))
        for number in range(2):
            log = ImpressionLog(folder / "log")
            log.log_slate(checkout(user_id="person-7f3a"), slate(f"request-7f3a-{number}"))
            log.log_feedback("click", "request-7f3a-0", "i1", TS)
            log.log_slate(checkout(user_id="other"), slate(f"request-other-{number}"))
            log.close()
        store = open_store(folder / "store.sqlite")
        store.append("person-7f3a", [Event("i1", 1_711_234_567)])
        places = Places(
            store=store, log=folder / "log", bundle=root, user_list=folder / "forgotten.txt",
            live=open_live_state(folder / "live.sqlite"),
        )  # fmt: skip
        assert all(any(traces(folder, [needle])) for needle in needles)
        steps = die_at(monkeypatch, last)
        try:
            forget_users(["person-7f3a"], places, settle_s=0)
        except KeyboardInterrupt:
            pass
        else:
            n_steps = steps[0]
        monkeypatch.undo()
        if n_steps:
            break
        assert forget_users(["person-7f3a"], places, settle_s=0).waiting == []
        assert [*traces(folder, needles, besides=["forgotten.txt"])] == [], last
        assert {row["user_id"] for row in logged(folder / "log")} == {"other"}
        store.close()
    assert n_steps >= 9


def arrow_store(path: Path) -> bytes:
    """A `store.arrow` with one user more, whose id is `person-7f3a`."""
    table = pa.ipc.open_file(path).read_all()
    row = table.slice(0, 1)
    row = row.set_column(0, "user_id", pa.array(["person-7f3a"]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(pa.concat_tables([row, table]))
    return sink.getvalue().to_pybytes()


def die_at(monkeypatch: pytest.MonkeyPatch, last: int) -> list[int]:
    """Let the step number `last` raise KeyboardInterrupt instead of its work. Returns the count so far."""
    count = [0]

    def counted(work):
        def step(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] == last:
                raise KeyboardInterrupt
            return work(*arguments, **named)

        return step

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(forget, "_attempt", counted(forget._attempt))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    return count


def test_a_user_who_is_nowhere_is_said_to_be_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(open_store(tmp_path / "store.sqlite")) as store:
        store.append("u1", [Event("i1", 1_711_234_567)])
    assert main(["forget", "U999", "--store", str(tmp_path / "store.sqlite")]) == 0
    printed = capsys.readouterr().out
    assert "nothing was found of U999" in printed
    assert f"{tmp_path / 'forgotten.txt'}: 1 added to the list for training" in printed


def test_a_place_that_takes_no_writes_waits_with_advice(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store.sqlite")
    with closing(store):
        store.append("u1", [Event("i1", 1_711_234_567)])
        # /sys takes no file of anybody, root included.
        removal = forget_users(["u1"], Places(store=store, user_list=Path("/sys/forgotten.txt")))
    (reason,) = removal.waiting
    assert reason.endswith("it cannot be written from here: run `sextet forget` where it can")
    assert removal.removed["store"]["records"] > 0  # the other places are done
