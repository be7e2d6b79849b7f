"""What the Python client does, and when, is what clients/rules.json says for both clients."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from rowcast import events, rules, tokens
from tests.commands import ROOT

RULES: dict[str, Any] = json.loads((ROOT / "clients" / "rules.json").read_text("utf-8"))
CODES: dict[str, dict[str, str]] = RULES["close_codes"]


def codes_with(then: str) -> set[int]:
    return {int(code) for code, one in CODES.items() if one["then"] == then}


def test_the_close_codes_are_those_of_the_table() -> None:
    """Their words, and which of them are final, about the token, or slow."""
    assert dict(rules.CLOSE_CODES) == {int(code): one["meaning"] for code, one in CODES.items()}
    assert codes_with("stop") == rules.FINAL_CODES
    assert codes_with("return with another token") == {rules.TOKEN_REFUSED}
    assert codes_with("return slowly") == {rules.RATE_LIMITED}
    unknown = RULES["any_other_code"]
    assert rules.Closed(3456).meaning == unknown["meaning"].replace("{code}", "3456")
    assert unknown["then"] == "return"


def test_4001_means_the_user_too() -> None:
    """As the protocol has it: who was deactivated is not told that only the token is wrong."""
    protocol = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    assert f"| 4001 | {CODES['4001']['meaning']} |" in protocol
    assert "deactivated" in CODES["4001"]["meaning"]


def test_the_waits_are_those_of_the_table() -> None:
    """In seconds here, in milliseconds there."""
    ours = asdict(rules.Timings())
    assert ours.pop("remember_ids") == RULES["remember_ids"]
    del ours["queue_events"]  # a limit of this client alone: the other one has no queue
    assert {name: 1000 * value for name, value in ours.items()} == RULES["timings"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempts_after_rate_limit", rules.ATTEMPT_AFTER_RATE_LIMIT),
        ("patience_factor", rules.PATIENCE_FACTOR),
        ("most_patience", rules.MOST_PATIENCE),
        ("max_token_refusals", tokens.MAX_REFUSALS),
        ("max_cursor_characters", events.MAX_CURSOR),
        ("max_retry_after_seconds", rules.MAX_RETRY_AFTER),
        ("other_user_reason", rules.OTHER_USER),
        ("unreadable_reason", events.UNREADABLE),
    ],
)
def test_the_limits_are_those_of_the_table(name: str, value: object) -> None:
    """One by one."""
    assert value == RULES[name]
