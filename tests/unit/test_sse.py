"""How messages become server-sent events, and how a stream of them ends."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.relay import closing
from realtime.relay.protocol import Message
from realtime.web.sse import EventsHandler, EventSink, EventStream, ping_comment
from realtime.web.stream import ClientStream
from tests.unit.test_conversation import Slow, connect, make_services
from tests.waiting import eventually

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
cursors = st.none() | st.from_regex(r"[A-Za-z0-9_.~-]{1,20}", fullmatch=True)


def blocks(text: str) -> Iterator[tuple[str | None, str]]:
    """The id and the data of each event, read as the standard says."""
    *whole, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n")
    assert rest == ""
    for block in whole:
        fields = [line.partition(": ")[::2] for line in block.split("\n")]
        ids = [value for name, value in fields if name == "id"]
        yield ids[0] if ids else None, "\n".join(value for name, value in fields if name == "data")


@given(st.lists(st.tuples(json_values, cursors)), st.sampled_from([None, 1]))
def test_every_message_is_one_event_with_the_same_json(
    messages: list[tuple[Any, str | None]], indent: int | None
) -> None:
    """However the platform's JSON is laid out; the id is the cursor."""

    def text(value: object) -> bytes:
        written = json.dumps(value, ensure_ascii=False, indent=indent)
        return written.replace("\n", "\r\n").encode("utf-8", "replace")

    sent = [Message(text(value), cursor) for value, cursor in messages]
    found = list(blocks(EventSink.frame(sent).decode()))
    assert [cursor for cursor, _ in found] == [cursor for _, cursor in messages]
    expected = [json.loads(message.text) for message in sent]
    assert [json.loads(data) for _, data in found] == expected
    assert all("\n" not in data for _, data in found)


def test_a_ping_is_no_event_and_carries_the_cursor() -> None:
    """Its id counts for the next reconnect; nothing is told to the page."""
    assert ping_comment("abc") == b":\nid: abc\n\n"
    assert ping_comment(None) == b":\n\n"


@pytest.mark.parametrize(
    ("header", "parameter", "cursor", "knows_cursors"),
    [
        (None, None, None, False),
        ("h", None, "h", False),
        (None, "p", "p", True),
        ("h", "p", "h", True),
        (None, "", "", True),
    ],
)
def test_only_the_address_says_that_a_page_knows_cursors(
    header: str | None, parameter: str | None, cursor: str | None, knows_cursors: bool
) -> None:
    """Browsers send the header by themselves, for a page that would not understand `resync`."""
    headers = {} if header is None else {"Last-Event-ID": header}
    handler: Any = SimpleNamespace(
        request=SimpleNamespace(headers=headers), query={"cursor": parameter}.get
    )
    asked = EventsHandler._asked(handler, ())
    assert (asked.cursor, asked.knows_cursors) == (cursor, knows_cursors)


@pytest.mark.gen_test
async def test_a_message_in_parts_is_one_event() -> None:
    """What is sent meanwhile comes behind it; its id comes first and counts at its end."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        stream = ClientStream(ours, None, asyncio.get_running_loop())
        sink = EventSink(stream, lambda _code, _reason: None)
        sink.send_part(Message(b'{"a":\r\n', "c1"), is_first=True, is_last=False)
        assert sink.is_within_message
        sink.send(EventSink.frame([Message(b"{}")]))
        sink.send_part(Message(b"1"), is_first=False, is_last=False)
        sink.send_part(Message(b"}"), is_first=False, is_last=True)
        assert not sink.is_within_message
        assert list(blocks(theirs.recv(1000).decode())) == [("c1", '{"a":  1}'), (None, "{}")]
        stream.close()


@pytest.mark.gen_test
async def test_why_a_stream_ends_is_told_behind_all_that_waits() -> None:
    """However much that is: the event finds room, and is the last."""
    ours, theirs = connect()
    theirs.setblocking(False)
    conversation: Any = SimpleNamespace(
        is_within_message=False, on_ws_connection_close=lambda _code: None
    )
    services = make_services(Slow("nowhere"))
    services.status.retry_after = 0.0
    one = EventStream(ours, conversation, services, {})
    one.head()
    one.stream.cork(b"x" * (one.stream.max_waiting or 0))
    one.send_close(*closing.ACCESS_ENDED)
    received = b""

    def is_over() -> bool:
        nonlocal received
        with suppress(BlockingIOError):
            while data := theirs.recv(65_536):
                received += data
            return True
        return False

    with theirs:
        await eventually(is_over)
    data = {"code": closing.ACCESS_ENDED.code, "reason": closing.ACCESS_ENDED.reason}
    assert received.lstrip(b"x") == f"event: close\ndata: {json.dumps(data)}\n\n".encode()
    one.drop()
