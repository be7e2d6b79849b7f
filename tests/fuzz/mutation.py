"""Makes odd input out of good input, or of nothing. Every choice comes from the given chance."""

from __future__ import annotations

import json
import random

INTERESTING = (
    *(
        b"\0",
        b"\r\n",
        b"\n",
        b"\t",
        b" ",
        b'"',
        b"'",
        b"\\",
        b"%00",
        b"%ff",
        b"%",
        b"../",
        b"=",
        b"&",
    ),
    *(b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xf0\x9f\x98\x80", b"\xef\xbb\xbf"),
    *(b"-1", b"0", b"1e999", b"NaN", b"9" * 400, b"18446744073709551616", b"null", b"{}", b"[]"),
    *(b"\\u0000", b"\\ud800", b"A" * 5000, b"[" * 2000, b'{"a":' * 500, b",", b":", b";", b"."),
)
NUMBERS = ("0", "-1", "1e999", "-0", "1.5", "9" * 5000, str(2**63), str(2**64), "1e-400", "NaN")
WORDS = (
    *("type", "data", "timestamp", "token", "is_typing", "session_id", "cursor", "id", "bot_id"),
    *("presence", "notifications", "subscribe", "unsubscribe"),
    *(
        "ping",
        "typing",
        "session_sync",
        "authenticate",
        "",
        "\0",
        "\ud800",
        "é",
        "x" * 300,
        "__proto__",
    ),
)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change good input in a few places."""
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(_CHANGES)(data, chance)
    return data


def mutate_text(text: str, chance: random.Random) -> str:
    """Change a text; whatever bytes come of it stand for themselves."""
    return mutate(text.encode(), chance).decode("latin-1")


def _place(data: bytes, chance: random.Random) -> int:
    return chance.randint(0, len(data))


def _flip(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return data
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted((_place(data, chance), _place(data, chance)))
    return data[:start] + data[end:]


def _end(data: bytes, chance: random.Random) -> bytes:
    return data[: _place(data, chance)]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.choice(INTERESTING) + data[at:]


def _noise(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.randbytes(chance.randint(1, 40)) + data[at:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted((_place(data, chance), _place(data, chance)))
    return data[:end] + data[start:end] * chance.randint(1, 3) + data[end:]


_CHANGES = (_flip, _flip, _cut, _end, _insert, _insert, _noise, _repeat)


def any_json(chance: random.Random, depth: int = 4) -> str:
    """A text that is JSON, or nearly."""
    pick = chance.randrange(10 if depth else 6)
    if pick < 2:
        return chance.choice(NUMBERS)
    if pick < 4:
        return any_string(chance)
    if pick < 6:
        return chance.choice(("null", "true", "false", "", "[" * 3000, '{"a":' * 1000))
    parts = [any_json(chance, depth - 1) for _ in range(chance.randint(0, 4))]
    if pick < 8:
        return f"[{','.join(parts)}]"
    return "{" + ",".join(f"{any_string(chance)}:{part}" for part in parts) + "}"


def any_string(chance: random.Random) -> str:
    """A JSON string."""
    return json.dumps(chance.choice(WORDS), ensure_ascii=chance.random() < 0.9)


def any_message(chance: random.Random, bot_id: str = "b") -> str:
    """What a client may say, more or less."""
    subscribing = ("subscribe", "subscribe", "unsubscribe")
    kind = chance.choice(("ping", "typing", "session_sync", "authenticate", *subscribing, "x"))
    target = {"bot_id": bot_id} if chance.random() < 0.7 else {"notifications": True}
    good = {
        "type": kind,
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {"is_typing": True, "session_id": "s", "token": "t", **target},
    }
    pick = chance.randrange(3)
    if pick == 0:
        return json.dumps(good)
    if pick == 1:
        return mutate_text(json.dumps(good), chance)
    members = [f"{any_string(chance)}:{any_json(chance)}" for _ in range(chance.randint(0, 4))]
    return "{" + ",".join([f'"type":"{kind}"', *members]) + "}"
