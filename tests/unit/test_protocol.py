"""Tests of `realtime.relay.protocol`: what clients say, and what the server says itself."""

import json
import math
import uuid
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.relay import protocol
from realtime.relay.errors import ErrorCode, MessageError
from realtime.relay.protocol import (
    Authenticate,
    ClientMessage,
    Ping,
    SessionSync,
    Subscribe,
    Target,
    Typing,
    Unsubscribe,
    bot_of,
    bot_topic,
    canonical_uuid,
    decode_client_message,
    decode_multi_message,
    rfc3339,
    stamp,
    stamp_start,
    user_topic,
)

NOW = 1_700_000_000.25
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TYPES = (
    st.sampled_from(["ping", "typing", "session_sync", "authenticate", "subscribe", "pong"]) | JSON
)
DATA = JSON | st.dictionaries(
    st.sampled_from(["is_typing", "session_id", "token", "bot_id", "notifications", "cursor"]), JSON
)
MESSAGES = st.fixed_dictionaries({"type": TYPES}, optional={"data": DATA, "timestamp": JSON})
ANY_TEXT = st.text(st.characters())
"""Lone surrogates included, as JSON escapes may bring them."""


def refusal(text: str) -> tuple[ErrorCode, str]:
    with pytest.raises(MessageError) as caught:
        decode_client_message(text)
    return caught.value.code, caught.value.message


def outcome(text: str) -> ClientMessage | None:
    """Decode: a message, or None where it was refused as documented."""
    with suppress(MessageError):
        decode_multi_message(text)
    try:
        return decode_client_message(text)
    except MessageError as error:
        refused = error
    answer = json.loads(protocol.error(refused.code, refused.message).text)
    assert answer == {"type": "error", "code": refused.code.value, "message": str(refused)}
    return None


# What clients say.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":"ping"}', Ping(None)),
        ('{"type":"ping","timestamp":null}', Ping(None)),
        ('{"type":"ping","timestamp":"2023-01-01T00:00:00Z"}', Ping("2023-01-01T00:00:00Z")),
        ('{"type":"ping","timestamp":1672531200000}', Ping(1672531200000)),
        ('{"type":"ping","timestamp":0.5}', Ping(0.5)),
        ('{"type":"typing","data":{"is_typing":true}}', Typing(True)),
        ('{"type":"typing","data":{"is_typing":false}}', Typing(False)),
        ('{"type":"session_sync","data":{"session_id":"s"}}', SessionSync("s")),
        ('{"type":"authenticate","data":{"token":"a.b.c"}}', Authenticate("a.b.c")),
        ('{"type":"typing","data":{"is_typing":true,"x":1},"id":"m","timestamp":1}', Typing(True)),
    ],
)
def test_understood(text: str, message: ClientMessage) -> None:
    """The four messages are understood, fields that are not known being ignored."""
    assert decode_client_message(text) == message


BOT_ID = "00000000-0000-4000-8000-0000000000ab"
BOT = Target(BOT_ID)
BELL = Target(None)


@pytest.mark.parametrize(
    ("message", "understood"),
    [
        ({"type": "subscribe", "data": {"bot_id": BOT_ID}}, (BOT, Subscribe(None, False))),
        ({"type": "subscribe", "data": {"bot_id": BOT_ID.upper()}}, (BOT, Subscribe(None, False))),
        (
            {"type": "subscribe", "data": {"bot_id": "x", "cursor": "c", "presence": True}},
            (Target("x"), Subscribe("c", True)),
        ),
        (
            {"type": "subscribe", "data": {"notifications": True, "cursor": "", "presence": False}},
            (BELL, Subscribe("", False)),
        ),
        ({"type": "unsubscribe", "data": {"bot_id": BOT_ID}}, (BOT, Unsubscribe())),
        ({"type": "unsubscribe", "data": {"notifications": True}}, (BELL, Unsubscribe())),
        ({"type": "ping"}, (None, Ping(None))),
        ({"type": "ping", "data": 7}, (None, Ping(None))),
        ({"type": "ping", "data": {"bot_id": BOT_ID}, "timestamp": 1}, (BOT, Ping(1))),
        ({"type": "ping", "data": {"notifications": True}}, (BELL, Ping(None))),
        ({"type": "typing", "data": {"bot_id": BOT_ID, "is_typing": True}}, (BOT, Typing(True))),
        (
            {"type": "session_sync", "data": {"bot_id": BOT_ID, "session_id": "s"}},
            (BOT, SessionSync("s")),
        ),
        ({"type": "authenticate", "data": {"token": "t"}}, (None, Authenticate("t"))),
    ],
)
def test_what_is_said_on_a_socket_for_many(message: Any, understood: Any) -> None:
    """Each message, and which subscription it is about."""
    assert decode_multi_message(json.dumps(message)) == understood


TOO_LARGE = "timestamp is too large for a number: send it as a string"
EITHER = "data must have either bot_id or notifications, which is true"


@pytest.mark.parametrize(
    ("message", "about", "words"),
    [
        ({"type": "subscribe"}, None, "data.bot_id must be a string"),
        ({"type": "subscribe", "data": {"bot_id": 7}}, None, "data.bot_id must be a string"),
        ({"type": "subscribe", "data": {"notifications": 1}}, None, EITHER),
        ({"type": "unsubscribe", "data": {"notifications": True, "bot_id": "x"}}, None, EITHER),
        ({"type": "ping", "data": {"notifications": False}}, None, EITHER),
        (
            {"type": "subscribe", "data": {"bot_id": "x" * 257}},
            None,
            "data.bot_id is longer than 256 characters",
        ),
        (
            {"type": "subscribe", "data": {"bot_id": BOT_ID.upper(), "cursor": None}},
            BOT,
            "data.cursor must be a string",
        ),
        (
            {"type": "subscribe", "data": {"notifications": True, "presence": "yes"}},
            BELL,
            "data.presence must be true or false",
        ),
        (
            {"type": "typing", "data": {"notifications": True, "is_typing": True}},
            BELL,
            "data.bot_id must be a string",
        ),
        (
            {"type": "typing", "data": {"bot_id": BOT_ID}},
            BOT,
            "data.is_typing must be true or false",
        ),
        (
            {"type": "session_sync", "data": {"bot_id": BOT_ID, "session_id": 7}},
            BOT,
            "data.session_id must be a string",
        ),
        ({"type": "ping", "data": {"bot_id": BOT_ID}, "timestamp": 2**64}, BOT, TOO_LARGE),
        ({"type": "authenticate", "data": {"bot_id": "x"}}, None, "data.token must be a string"),
    ],
)
def test_what_may_not_be_said_on_a_socket_for_many(
    message: Any, about: Target | None, words: str
) -> None:
    """The words say which field is wrong; and it is said which subscription it is about."""
    with pytest.raises(MessageError) as caught:
        decode_multi_message(json.dumps(message))
    assert (caught.value.code, caught.value.message) == (ErrorCode.INVALID_MESSAGE, words)
    assert caught.value.target == about


@pytest.mark.parametrize(
    ("target", "named"), [(BOT, {"bot_id": BOT_ID}), (BELL, {"notifications": True})]
)
def test_what_a_socket_for_many_is_told(target: Target, named: dict[str, Any]) -> None:
    """Each message names its subscription."""
    assert decoded(protocol.subscribed(target, {"role": "r"})) == {
        "type": "subscribed",
        **named,
        "data": {"role": "r"},
    }
    assert decoded(protocol.unsubscribed(target, 4003, "why")) == {
        "type": "unsubscribed",
        **named,
        "data": {"code": 4003, "reason": "why"},
    }
    assert decoded(protocol.pong("t", None, target)) == {"type": "pong", **named, "timestamp": "t"}
    refused = {"type": "error", **named, "code": "not_subscribed", "message": "m"}
    assert decoded(protocol.error(ErrorCode.NOT_SUBSCRIBED, "m", target)) == refused


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ping",
        "{",
        "NaN",
        "\ufeff{}",
        '{"type":"ping","timestamp":Infinity}',
        '{"type":"ping","timestamp":-Infinity}',
        '{"type":"ping"} {}',
        "[" * 65_536,
        '{"type":' * 10_000,
        '{"type":"ping","timestamp":' + "9" * 5_000 + "}",
    ],
)
def test_not_json(text: str) -> None:
    """What is not JSON is answered so, also where it is deep or its numbers are long."""
    assert refusal(text)[0] is ErrorCode.INVALID_JSON


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("null", "the message must be a JSON object"),
        ('["ping"]', "the message must be a JSON object"),
        ("{}", "type must be a string"),
        ('{"type":null}', "type must be a string"),
        ('{"type":["ping"]}', "type must be a string"),
        ('{"type":"typing"}', "data.is_typing must be true or false"),
        ('{"type":"typing","data":null}', "data.is_typing must be true or false"),
        ('{"type":"typing","data":[true]}', "data.is_typing must be true or false"),
        ('{"type":"typing","data":{"is_typing":1}}', "data.is_typing must be true or false"),
        ('{"type":"typing","is_typing":true}', "data.is_typing must be true or false"),
        ('{"type":"session_sync","data":{}}', "data.session_id must be a string"),
        ('{"type":"session_sync","data":{"session_id":7}}', "data.session_id must be a string"),
        ('{"type":"authenticate","data":{"token":null}}', "data.token must be a string"),
        ('{"type":"ping","timestamp":true}', "timestamp must be a string or a number"),
        ('{"type":"ping","timestamp":[]}', "timestamp must be a string or a number"),
        ('{"type":"ping","timestamp":1e999}', TOO_LARGE),
        (f'{{"type":"ping","timestamp":{2**64}}}', TOO_LARGE),
        (f'{{"type":"ping","timestamp":-{10**400}}}', TOO_LARGE),
    ],
)
def test_not_a_message(text: str, words: str) -> None:
    """What is JSON but not a message is answered with what is wrong with it."""
    assert refusal(text) == (ErrorCode.INVALID_MESSAGE, words)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"type": "ping", "timestamp": "x" * 257}, "timestamp is longer"),
        ({"type": "session_sync", "data": {"session_id": "x" * 257}}, "data.session_id is longer"),
    ],
)
def test_too_long_to_echo(message: dict[str, Any], words: str) -> None:
    """What goes back to the client is short, so that it cannot make us say more than it does."""
    code, complaint = refusal(json.dumps(message))
    assert code is ErrorCode.INVALID_MESSAGE
    assert complaint.startswith(words)


@pytest.mark.parametrize("kind", ["pong", "chat_message", "Ping", "subscribe"])
def test_unknown_type(kind: str) -> None:
    """A type that is not known has a code of its own, and words that say which ones are known."""
    code, words = refusal(json.dumps({"type": kind}))
    known = "ping or authenticate, and on a chat typing or session_sync"
    assert code is ErrorCode.UNKNOWN_TYPE
    assert words == f"the type {kind} is not known here: send {known}"


def test_unknown_type_on_a_socket_for_many() -> None:
    """It knows more of them."""
    with pytest.raises(MessageError, match="send subscribe, unsubscribe, ping, authenticate") as no:
        decode_multi_message('{"type":"pong","data":{"bot_id":"x"}}')
    assert (no.value.code, no.value.target) == (ErrorCode.UNKNOWN_TYPE, None)


@pytest.mark.parametrize("kind", ["", "x" * 65, "<script>", "two words", "p\u0131ng", "a\n"])
def test_a_type_that_is_no_word_is_not_repeated(kind: str) -> None:
    """Whoever reads the answer may show it."""
    code, words = refusal(json.dumps({"type": kind}))
    assert code is ErrorCode.UNKNOWN_TYPE
    assert words.startswith("this message type is not known here: send ")


@given(ANY_TEXT)
def test_any_text(text: str) -> None:
    """Whatever the text, it is a message or a MessageError that can be answered."""
    outcome(text)


@given(JSON | MESSAGES)
def test_any_json(value: object) -> None:
    """Whatever the JSON, it is a message that can be answered, or a MessageError that can be."""
    match outcome(json.dumps(value)):
        case Ping(timestamp) if timestamp is not None:
            assert isinstance(value, dict)
            assert decoded(protocol.pong(timestamp, "c"))["timestamp"] == value["timestamp"]
        case SessionSync(session_id):
            answer = decoded(protocol.session_synced(session_id, "b", NOW))
            assert answer["data"]["session_id"] == session_id
        case Authenticate(token):
            assert isinstance(token, str)
        case Typing(is_typing):
            assert isinstance(is_typing, bool)


# What the server says.


def decoded(message: protocol.Message) -> dict[str, Any]:
    """Read it as a strict client does: UTF-8, standard JSON, one line."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert b"\n" not in message.text
    value = json.loads(message.text.decode("utf-8"), parse_constant=refuse)
    assert isinstance(value, dict)
    return value


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT | NUMBERS, st.booleans(), st.floats(0, 4e9))
def test_answers(one: str, two: str, timestamp: str | float, flag: bool, now: float) -> None:
    """Whatever is echoed, each answer is valid JSON in UTF-8 and says what it was told."""
    time = rfc3339(now)
    assert decoded(protocol.connection_established({one: two})) == {
        "type": "connection_established",
        "data": {one: two},
    }
    pong = {"type": "pong", "timestamp": timestamp, "cursor": one}
    assert decoded(protocol.pong(timestamp, one)) == pong
    assert decoded(protocol.session_synced(one, two, now)) == {
        "type": "session_synced",
        "data": {"session_id": one, "bot_id": two, "timestamp": time},
    }
    assert decoded(protocol.typing_indicator(one, two, one, flag, now)) == {
        "type": "typing_indicator",
        "bot_id": one,
        "data": {"user_id": two, "username": one, "is_typing": flag},
        "timestamp": time,
    }


def test_going_away() -> None:
    """It says in how many seconds the client should come back."""
    assert json.loads(protocol.going_away(1.5).text) == {
        "type": "going_away",
        "data": {"retry_after_seconds": 1.5},
    }


def test_notices() -> None:
    """The server's own notices have the shapes of the protocol."""
    missed = {"type": "resync", "data": {"reason": "access_changed"}}
    assert decoded(protocol.resync("access_changed", None)) == missed
    assert decoded(protocol.resync("access_changed", "b")) == {**missed, "bot_id": "b"}
    expiry = {"expires_at": "2023-11-14T22:13:20.250000Z"}
    assert decoded(protocol.token_expiring(NOW)) == {"type": "token_expiring", "data": expiry}
    assert decoded(protocol.authenticated(NOW)) == {"type": "authenticated", "data": expiry}
    assert decoded(protocol.error(ErrorCode.RATE_LIMITED, "slow down")) == {
        "type": "error",
        "code": "rate_limited",
        "message": "slow down",
    }


PAYLOADS = st.dictionaries(st.text(), JSON, min_size=1).filter(
    lambda payload: not payload.keys() & {"id", "cursor"}
)


@given(
    PAYLOADS,
    st.from_regex("[0-9]+-[0-9]+", fullmatch=True),
    st.none() | st.from_regex("[0-9a-f.-]+", fullmatch=True),
)
def test_stamp(payload: dict[str, Any], event_id: str, cursor: str | None) -> None:
    """`id` and `cursor` are spliced into any object, which otherwise stays as it was."""
    place = {} if cursor is None else {"cursor": cursor}
    text = json.dumps(payload, ensure_ascii=True)
    stamped = stamp(text, event_id, cursor)
    assert same(json.loads(stamped.text), {"id": event_id, **place, **json.loads(text)})
    assert stamped.cursor == cursor


@pytest.mark.parametrize("cursor", [None, "c"])
def test_the_first_bytes_of_a_payload_are_stamped_alike(cursor: str | None) -> None:
    """What follows them as it is makes the same message."""
    payload = '{"type":"x"}'
    begun = stamp_start(payload[:4].encode(), "3-9", cursor)
    whole = stamp(payload, "3-9", cursor)
    assert (begun.text + payload[4:].encode(), begun.cursor) == whole


def same(one: object, other: object) -> bool:
    """Equal, NaN being equal to itself."""
    return json.dumps(one) == json.dumps(other)


def test_stamp_keeps_utf8() -> None:
    """Text that the database did not escape goes out as UTF-8."""
    assert stamp('{"type":"ü\u2028"}', "3-9", None).text == '{"id":"3-9","type":"ü\u2028"}'.encode()


# Small things.


@given(st.uuids())
def test_uuid_in_any_case(identifier: uuid.UUID) -> None:
    """A hyphenated UUID is taken in either case, and spelled in lower case from then on."""
    assert canonical_uuid(str(identifier).upper()) == str(identifier)


@given(st.text() | st.from_regex(r"[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\s?"))
def test_no_uuid(text: str) -> None:
    """Whatever is taken for a UUID is one, in its one spelling."""
    found = canonical_uuid(text)
    assert found is None or found == str(uuid.UUID(text)) == text.lower()


def test_topics() -> None:
    """Topics name their kind and whose they are."""
    assert (bot_topic("7"), user_topic("7")) == ("bot:7", "user:7")
    assert (protocol.user_of("user:7"), protocol.user_of("bot:7")) == ("7", None)
    assert (bot_of("bot:7"), bot_of("user:7"), bot_of("bot")) == ("7", None, "")


@given(st.floats(0, 253402300799 - 1))
def test_times(epoch: float) -> None:
    """A time is RFC 3339 in UTC, to the microsecond, and always of the same length."""
    text = rfc3339(epoch)
    assert len(text) == len("2023-11-14T22:13:20.250000Z")
    parsed = datetime.fromisoformat(text.removesuffix("Z") + "+00:00")
    assert math.isclose(parsed.timestamp(), epoch, abs_tol=1e-4)
