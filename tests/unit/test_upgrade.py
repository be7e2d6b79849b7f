"""Tests of `realtime.web.upgrade`: what it reads, and that Tornado would read the same."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPServerRequest, parse_request_start_line

from realtime.web.upgrade import Upgrade, is_welcome, read_upgrade

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
LINES = (
    "GET /api/ws/chat/x?token=a.b-c&cursor= HTTP/1.1",
    "Host: example.org:8000",
    "Upgrade: websocket",
    f"Sec-WebSocket-Key: {KEY}",
)


def request(*more: str, first: str = LINES[0], host: str = LINES[1]) -> bytes:
    return "\r\n".join((first, host, *LINES[2:], *more, "", "")).encode("latin-1")


def test_a_plain_handshake_is_read() -> None:
    """Up to its end: what follows is a frame."""
    data = request("X-Empty:", "Accept:  a, b \t")
    upgrade, size = read_upgrade(data + b"\x81\r\n\r\n") or (None, 0)
    assert upgrade is not None
    assert size == len(data)
    assert upgrade.path == "/api/ws/chat/x"
    assert upgrade.query == {"token": "a.b-c", "cursor": ""}
    assert upgrade.headers["sec-websocket-key"] == KEY
    assert (upgrade.headers["x-empty"], upgrade.headers["accept"]) == ("", "a, b")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n" in upgrade.answer()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        request()[:-1],
        request().replace(b"\r\n", b"\n"),
        request("Content-Length: 0"),
        request("Transfer-Encoding: chunked"),
        request("Expect: 100-continue"),
        request("Host: example.org"),
        request("upgrade: websocket"),
        request("X-Folded: a\r\n b"),
        request("X-Bare: a\rb"),
        request("X-Bare: a\nb"),
        request("X-Null: a\0b"),
        request("X-Text: \xff"),
        request("X Space: a"),
        request("X-Space : a"),
        request(": a"),
        request("nothing"),
        request(host="Host: a b"),
        request(host="Host: a, b"),
        request(host="X-Host: a"),
        request(first="GET /api/ws/chat/x HTTP/1.0"),
        request(first="POST /api/ws/chat/x HTTP/1.1"),
        request(first="GET  /api/ws/chat/x HTTP/1.1"),
        request(first="GET http://x/api/ws/chat/x HTTP/1.1"),
        request(first="GET /api/ws/chat/%20 HTTP/1.1"),
        request(first="GET /api/ws/chat/x?a=\xff HTTP/1.1"),
        request(first="GET /api/ws/chat/x? HTTP/1.1 HTTP/1.1"),
        request(first="GET /api/ws/chat/x?" + "a&" * 16 + " HTTP/1.1"),
        b"\r\n" + request(),
    ],
)
def test_what_is_not_plain_is_left(data: bytes) -> None:
    """Tornado reads it, and knows what to answer."""
    assert read_upgrade(data) is None


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        (None, True),
        ("https://app.example", True),
        ("https://app.example.evil.example", False),
        ("https://app.example:8443", False),
        ("https://app.exampl", False),
        ("http://app.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_an_origin_is_one_of_those_that_are_named(origin: str | None, is_allowed: bool) -> None:
    """To the letter: one that begins like it is another one."""
    assert is_welcome(origin, {"https://app.example", "https://other.example"}) is is_allowed
    assert is_welcome(origin, None)


NAMES = st.text("abcXYZ019-", min_size=1, max_size=8)
PIECES = st.sampled_from(
    ["a", "token", "=", "&", "+", "%20", "%ff", "%c3%a9", "%c3", "%", "%2", "#", "?", ";", ",", "/"]
)


@given(
    query=st.lists(PIECES, max_size=12).map("".join),
    more=st.dictionaries(NAMES, st.text("ab ,;=\t\"'", max_size=6), max_size=5),
)
def test_what_is_read_is_what_tornado_reads(query: str, more: dict[str, str]) -> None:
    """Path, parameters and headers."""
    first = f"GET /api/ws/chat/{quote('x-1')}?{query} HTTP/1.1"
    data = request(*(f"{name}: {value}" for name, value in more.items()), first=first)
    found = read_upgrade(data)
    if found is None:
        return
    upgrade, size = found
    head = data.decode("latin-1")
    line, _, lines = head.partition("\r\n")
    theirs = HTTPServerRequest(
        start_line=parse_request_start_line(line), headers=HTTPHeaders.parse(lines)
    )
    query_arguments = {
        name: values[-1].decode("utf-8", "replace")
        for name, values in theirs.query_arguments.items()
    }
    headers = {name.lower(): value for name, value in theirs.headers.items()}
    assert size == len(data)
    assert upgrade == Upgrade(theirs.path, query_arguments, headers)
