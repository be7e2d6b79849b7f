"""docs/asyncapi.yaml: whole, and in step with the protocol, the code and the JavaScript client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import realtime
from realtime.relay.errors import ErrorCode
from realtime.relay.protocol import decode_client_message, decode_multi_message
from realtime.relay.resume import GapReason
from tests.asyncapi import PATH, channel_of, document, fits, misfits, of_client, of_server, types

ROOT = PATH.parents[1]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")
SCHEMAS: dict[str, Any] = document()["components"]["schemas"]


def references(found: object) -> Iterator[str]:
    if isinstance(found, dict):
        yield from ([found["$ref"]] if "$ref" in found else [])
        for value in found.values():
            yield from references(value)
    elif isinstance(found, list):
        for value in found:
            yield from references(value)


def test_every_reference_leads_somewhere() -> None:
    """And every schema is one."""
    for reference in references(document()):
        place: Any = document()
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    for message in document()["components"]["messages"].values():
        Draft202012Validator.check_schema(message["payload"])
    assert document()["info"]["version"] == realtime.__version__


def test_the_types_are_those_of_the_protocol() -> None:
    """As relay.emit knows them, and the client's own, which nobody may emit either."""
    (path,) = sorted((ROOT / "migrations" / "sql").glob("*/core/contract.sql"))[-1:]
    listed, *_ = re.findall(r"ARRAY\[(.*?)\]", _protocol_types(path), re.DOTALL)
    reserved = set(re.findall(r"'(\w+)'", listed)) - {"eject", "recheck", "grant"}
    assert set(types()) == reserved


def _protocol_types(path: Path) -> str:
    return path.read_text("utf-8").partition("FUNCTION relay.protocol_types")[2]


def test_the_words_of_the_code_are_those_of_the_document() -> None:
    """Codes of errors, and reasons why nothing is recovered."""
    assert SCHEMAS["ErrorCode"]["enum"] == [code.value for code in ErrorCode]
    assert SCHEMAS["NotRecovered"]["enum"] == [reason.value for reason in GapReason]


def test_the_endpoints_are_those_of_the_protocol() -> None:
    """Every address at which messages come, and no other."""
    listed = re.findall(r"^\| `(?:GET )?(/api/(?:ws|sse)\S*)` \| (\S+)", PROTOCOL, re.MULTILINE)
    wanted = {path for path, kind in listed if kind != "JSON"}
    assert {one["address"] for one in document()["channels"].values()} == wanted
    assert channel_of("ws://x/api/ws/chat/1?token=t") == "chat"
    assert channel_of("ws://x/api/ws") == "multi"
    assert channel_of("ws://x/api/nothing") is None


def test_the_examples_of_the_protocol_fit() -> None:
    """With something in place of the dots."""
    everything = {name for channel in document()["channels"] for name in of_server(channel)}
    everything |= {name for channel in document()["channels"] for name in of_client(channel)}
    count = 0
    for block in re.findall(r"```json\n(.*?)```", PROTOCOL, re.DOTALL):
        example = json.loads(block)
        if "type" in example:
            count += 1
            assert misfits(filled_in(example), everything) == []
    assert count > 15


UUID = "00000000-0000-4000-8000-0000000000a1"
TIME = "2026-01-31T12:00:00.000000Z"
FILLED = {
    "cursor": "Aq3",
    "timestamp": TIME,
    "since": TIME,
    "expires_at": TIME,
    "id": "4711-1769860800250000",
}


def filled_in(example: Any, key: str = "") -> Any:
    """The example with values of the right kind in place of `…`."""
    if isinstance(example, dict):
        whole = {name: filled_in(value, name) for name, value in example.items()}
        event = {"type", "bot_id", "data"} <= example.keys() or "notification_type" in example
        if event and example["type"] in EVENTS:
            whole = {"id": FILLED["id"], "timestamp": TIME} | whole
        if whole.get("filename"):
            whole["id"] = UUID
        return whole
    if isinstance(example, list):
        return [filled_in(one, key) for one in example]
    if example in ("…", "… or null") or str(example).startswith("as it was sent"):
        return FILLED.get(key, UUID)
    return example


EVENTS = {
    "permission_change",
    "notification",
    "bot_update",
    "document_update",
    "chat_message",
    "poll_opened",
}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=300) | st.just(UUID),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
TYPES = ["ping", "typing", "session_sync", "authenticate", "subscribe", "unsubscribe", "other"]
said = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES)},
    optional={
        "timestamp": values,
        "data": values
        | st.fixed_dictionaries(
            {},
            optional={
                "is_typing": values,
                "session_id": values,
                "token": values,
                "bot_id": values,
                "notifications": st.just(True) | values,
                "cursor": values,
                "presence": values,
            },
        ),
    },
)


@pytest.mark.parametrize("channel", ["chat", "multi"])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(message=said)
def test_what_fits_is_what_the_server_takes(channel: str, message: dict[str, Any]) -> None:
    """A message of a client that the document allows is not answered with an error."""
    if fits(message, of_client(channel)):
        decode = decode_multi_message if channel == "multi" else decode_client_message
        decode(json.dumps(message))


def test_the_types_of_the_javascript_client_are_those_of_the_document() -> None:
    """Every message of the server that a client of one bot, or of many, may be told."""
    path = ROOT / "clients" / "javascript" / "src" / "realtime.d.ts"
    declared = path.read_text("utf-8")
    (listed,) = re.findall(r"interface ServerMessages<.*?> \{\n(.*?)\n\}", declared, re.DOTALL)
    names = set(re.findall(r"^  (\w+):", listed, re.MULTILINE))
    sent = {
        str(document()["components"]["messages"][name]["name"])
        for channel in ("chat", "notifications")
        for name in of_server(channel)
    }
    assert names == sent - {"ownEvent"}
    for type_name, schema in (("ErrorCode", "ErrorCode"), ("NotRecoveredReason", "NotRecovered")):
        (union,) = re.findall(rf"export type {type_name} =\s(.*?);", declared, re.DOTALL)
        assert set(re.findall(r"'(\w+)'", union)) <= set(SCHEMAS[schema]["enum"]), type_name
