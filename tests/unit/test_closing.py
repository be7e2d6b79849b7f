"""The table of close codes and reasons, and the page that tells clients of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import realtime
from realtime.auth.tokens import TokenReason
from realtime.relay import closing
from realtime.relay.closing import CloseCode, Closing

ROOT = Path(realtime.__file__).parent
PROTOCOL = (ROOT.parent / "docs" / "protocol.md").read_text("utf-8")
TABLE = [one for one in vars(closing).values() if isinstance(one, Closing)]
SAID = {*TABLE, *(Closing(CloseCode.UNAUTHENTICATED, reason) for reason in TokenReason)}


def test_the_protocol_page_lists_every_code_with_its_reasons() -> None:
    """And none that the server does not use."""
    listed = re.findall(r"(?m)^\| (\d{4}) \| `([^`]+)` \|", PROTOCOL)
    assert sorted((int(code), reason) for code, reason in listed) == sorted(SAID)


def test_the_protocol_page_lists_every_code() -> None:
    """What a client should do is in a row for each."""
    listed = re.findall(r"(?m)^\| (\d{4}) \| [^`|]", PROTOCOL)
    assert [int(code) for code in listed] == sorted(CloseCode)


def test_every_reason_fits_into_a_close_frame() -> None:
    """RFC 6455 section 5.5: a control frame has 125 bytes, two of them the code."""
    assert all(0 < len(one.reason.encode()) <= 123 for one in SAID)


def test_codes_that_a_close_frame_may_have() -> None:
    """Those of RFC 6455 section 7.4 and of IANA's registry, and no other number."""
    allowed = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    assert {code for code in range(-1, 70_000) if closing.may_be_sent(code)} == allowed
    assert not closing.may_be_sent(2**31)
    assert all(closing.may_be_sent(code) for code in CloseCode)


def test_no_reason_is_there_twice() -> None:
    """Each says one thing."""
    assert len({one.reason for one in SAID}) == len(TABLE) + len(TokenReason)


def test_reasons_stand_in_the_table_only() -> None:
    """Nobody writes words for a close frame at the place of use, and each row is used."""
    trees = {path: ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "closing"
    }
    names = {name for name, one in vars(closing).items() if isinstance(one, Closing)}
    assert names == used & names
    closers = ("close", "end", "dismiss", "Refused", "finish")
    words = [
        ast.unparse(node)
        for node in nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in closers
        and any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in node.args)
    ]
    assert words == []
