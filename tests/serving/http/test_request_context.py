"""Ids of requests: X-Request-Id and traceparent."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http.app import create_app
from serving.http.request_context import parse_traceparent, read_ids
from serving.http.settings import Settings
from tests.serving.http.services import BASKET, Client, serving, six

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def client(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("open sesame\n")
    settings = Settings(version.parent, api_key_file=keys, deadline_ms=60_000)
    with serving(create_app(settings)) as started:
        yield started


@given(st.binary(max_size=200))
def test_an_id_is_kept_if_it_is_printable_ascii(sent: bytes) -> None:
    request_id, _ = read_ids([(b"x-request-id", sent)])
    if 1 <= len(sent) <= 128 and all(32 <= byte < 127 for byte in sent):
        assert request_id.encode() == sent
    else:
        assert re.fullmatch("[0-9a-f]{32}", request_id)


@given(
    st.binary(max_size=80)
    | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)
)
def test_no_header_breaks_the_parser(sent: bytes) -> None:
    parent = parse_traceparent(sent)
    if parent is not None:
        assert sent.strip().startswith(sent.strip()[:2] + f"-{parent.trace_id}-{parent.span_id}-".encode())
        assert int(parent.trace_id, 16)
        assert int(parent.span_id, 16)


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"01-{TRACE}-{SPAN}-01-later", True),  # a later version may have more
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        ("", False),
    ],
)
def test_traceparents(value: str, is_valid: bool) -> None:
    parent = parse_traceparent(value.encode())
    assert (parent is not None) == is_valid
    if parent is not None:
        assert (parent.trace_id, parent.span_id, parent.is_sampled) == (TRACE, SPAN, "-01" in value)


def test_two_traceparents_are_invalid() -> None:
    header = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    assert read_ids([header])[1] is not None
    assert read_ids([header, header])[1] is None


def test_every_answer_has_the_id(client: Client) -> None:
    """Slates, problems and pages; the slate's own id is another one."""
    authorized = {"Authorization": "Bearer open sesame", "X-Request-Id": "mine-1"}
    answers = [
        client.post("/v1/recommendations", BASKET, headers=authorized),
        client.post("/v1/recommendations", {"basket": 1}, headers=authorized),
        client.post("/v1/recommendations", BASKET, headers={"X-Request-Id": "mine-1"}),  # no key
        client.get("/nowhere", headers=authorized),
        client.get("/metrics", headers=authorized),
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 401, 404, 200]
    assert [answer.headers.get_list("x-request-id") for answer in answers] == [["mine-1"]] * 5
    assert six(answers[0])["request_id"] != "mine-1"


def test_an_answer_without_an_id_gets_one(client: Client) -> None:
    ids = {client.get("/healthz", headers=headers).headers["x-request-id"]
           for headers in ({}, {"X-Request-Id": "x" * 129}, {"X-Request-Id": "ä".encode()})}  # fmt: skip
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in ids)
