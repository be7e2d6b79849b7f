"""What docs/asyncapi.yaml says of messages, to hold against those that tests see.

The document lets both sides add fields, as the protocol does. Here no field is allowed that it does
not have: a field that nobody described would else never be missed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from jsonschema import Draft202012Validator

PATH = Path(__file__).parents[1] / "docs" / "asyncapi.yaml"

Message = dict[str, Any]
COMPLAINTS = ("invalid_json", "invalid_message", "unknown_type")
"""The codes of errors about a message that the document does not allow."""


@cache
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(PATH.read_text("utf-8"), yaml.CSafeLoader)
    return loaded


def channel_of(url: str) -> str | None:
    """The name of the channel at that address; None: the document has none there."""
    path = urlsplit(url).path
    for name, channel in document()["channels"].items():
        start, _, parameter = channel["address"].partition("{")
        if path == start or (parameter and path.startswith(start)):
            return str(name)
    return None


def of_server(channel: str) -> list[str]:
    """The names of the messages that a client may be sent there."""
    return _messages(channel, "send")


def of_client(channel: str) -> list[str]:
    """The names of the messages that a client may send there."""
    return _messages(channel, "receive")


def fits(message: Message, names: Iterable[str]) -> bool:
    """Whether a message is one of those, with the fields that it has to have and no others."""
    return any(_validator(name).is_valid(message) for name in _alike(message, names))


def misfits(message: Message, names: Sequence[str]) -> list[str]:
    """Why a message is none of those; empty: it is one of them."""
    if fits(message, names):
        return []
    errors = [
        f"{name}: {error.json_path} {error.message[:200]}"
        for name in _alike(message, names)
        for error in _validator(name).iter_errors(message)
    ]
    return [*(errors or ["no message has this type here"]), str(message)[:1000]]


def misfits_of(
    channel: str | None, texts: Sequence[str | bytes], said: Iterable[Message]
) -> list[str]:
    """What a client was sent that it must not be sent there; or an error for what it may say.

    Args:
        texts: what it was sent; of many messages only the first and the last are looked at.
        said: what it sent itself.
    """
    if channel is None:
        return []
    names = of_server(channel)
    seen = [json.loads(text) for text in [*texts[:100], *texts[100:][-50:]]]
    found = [why for one in seen for why in misfits(one, names)]
    complaints = sum(one.get("code") in COMPLAINTS for one in seen if one["type"] == "error")
    wrong = sum(not fits(one, of_client(channel)) for one in said)
    return found + [f"{complaints} complaints about {wrong}"] * (complaints > wrong)


def _alike(message: Message, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if _type(name) in (None, message.get("type")))


def _messages(channel: str, action: str) -> list[str]:
    reference = f"#/channels/{channel}"
    return [
        one["$ref"].rpartition("/")[2]
        for operation in document()["operations"].values()
        if operation["action"] == action and operation["channel"]["$ref"] == reference
        for one in operation["messages"]
    ]


def _type(name: str) -> str | None:
    """The type that the message always has; None: that is somebody else's choice."""
    found: str | None = _payload(name)["properties"]["type"].get("const")
    return found


def _payload(name: str) -> dict[str, Any]:
    payload: dict[str, Any] = document()["components"]["messages"][name]["payload"]
    return payload


@cache
def _validator(name: str) -> Draft202012Validator:
    schema = {**_closed(_payload(name)), "components": _closed(document()["components"])}
    return Draft202012Validator(schema)


def _closed(schema: Any) -> Any:
    """The same, without room for fields that are not described."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def types() -> Iterator[str]:
    """Every type that the document has of its own."""
    for name in document()["components"]["messages"]:
        if kind := _type(name):
            yield kind
