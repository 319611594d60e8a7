"""Changes of the live state reach every service that shares it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from serving.http.app import create_app
from serving.http.live_updates import LiveUpdates
from serving.http.metrics import ServiceMetrics
from serving.http.settings import Settings
from serving.stores.live_state import Change, SQLiteLiveState
from tests.serving.http.services import serving, until


def follow(updates: LiveUpdates, topic: str) -> dict[str, bytes]:
    """The entries of a topic, as its subscriber has them."""
    entries: dict[str, bytes] = {}

    def apply(changes: Sequence[Change], is_complete: bool) -> None:
        if is_complete:
            entries.clear()
        for change in changes:
            entries.pop(change.key, None)
            if change.value is not None:
                entries[change.key] = change.value

    updates.subscribe(topic, apply)
    return entries


def test_a_change_reaches_both_services(version: Path, tmp_path: Path) -> None:
    apps = [create_app(Settings(version, live=str(tmp_path / "live.sqlite"))) for _ in range(2)]
    with serving(apps[0], ready=False) as writer, serving(apps[1], ready=False) as reader:
        own, other = follow(writer.service.live, "rules"), follow(reader.service.live, "rules")
        writer.service.live.write([Change("rules", "a", b"1"), Change("items", "a", b"2")])
        assert own == {"a": b"1"}  # at once
        until(lambda: other == {"a": b"1"})
        writer.service.live.write([Change("rules", "a", None)])
        assert own == {}
        until(lambda: other == {})
        assert follow(reader.service.live, "items") == {"a": b"2"}  # a late subscriber gets all entries


def test_a_state_that_cannot_be_read_leaves_what_was_read(tmp_path: Path) -> None:
    updates = LiveUpdates(SQLiteLiveState(tmp_path / "live.sqlite"), ServiceMetrics())
    entries = follow(updates, "rules")
    updates.write([Change("rules", "a", b"1")])
    content = (tmp_path / "live.sqlite").read_bytes()
    for file in tmp_path.glob("live.sqlite-*"):
        file.unlink()
    (tmp_path / "live.sqlite").write_bytes(b"no database" * 1000)
    updates.poll()
    assert entries == {"a": b"1"}
    assert "not a database" in updates.reason
    (tmp_path / "live.sqlite").write_bytes(content)
    updates.poll()
    assert updates.reason == ""
    with pytest.raises(OSError, match="live state"):
        LiveUpdates(SQLiteLiveState(tmp_path), ServiceMetrics()).write([Change("rules", "a", b"1")])
