"""What `bin/tail` prints, and with which client."""

from __future__ import annotations

import json
import sys
from datetime import UTC
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from realtime.auth import signing as dev_tokens
from realtime.cli.commands import main
from realtime.config.settings import Settings
from realtime.dev import demo
from realtime.dev.demo import BOT_ID
from realtime.tail import command as tail
from rowcast import Event, RealtimeClient, Reconnecting
from rowcast.events import parse

SECRET = "a secret of at least thirty-two bytes, for tests"
AT = "2026-01-31T12:00:00.000000Z"
DATA = {"username": "ada", "content": "Hello"}


def event(kind: str, data: Any = None, **more: Any) -> Event:
    parsed = parse(json.dumps({"type": kind, "data": data, "timestamp": AT, **more}))
    assert parsed is not None
    return parsed


def line(kind: str, data: Any = None, **more: Any) -> str:
    return click.unstyle(tail.line_of(event(kind, data, **more), UTC))


def call(*arguments: str, **environ: str) -> Result:
    cleared = dict.fromkeys((name.upper() for name in Settings.model_fields), None)
    return CliRunner().invoke(main, ["tail", *arguments], env=cleared | environ)


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("chat_message", DATA, "ada: Hello"),
        ("chat_message", {**DATA, "role": "assistant"}, "assistant: Hello"),
        ("chat_message", {"role": "user", "content": "Hello"}, "somebody: Hello"),
        ("chat_message_update", {**DATA, "action": "edited"}, "edited, ada: Hello"),
        ("chat_message_update", {"action": "deleted", "message_id": "m"}, "deleted m"),
        ("typing_indicator", {"username": "ada", "is_typing": True}, "ada is typing"),
        ("typing_indicator", {"username": "ada", "is_typing": False}, "ada stopped typing"),
        (
            "permission_change",
            {"action": "granted", "target_user_id": "u", "details": {"role": "editor"}},
            "granted editor: user u",
        ),
        ("bot_update", {"update_type": "config", "details": {"name": "é"}}, 'config {"name": "é"}'),
        (
            "document_update",
            {"action": "failed", "document": {"filename": "a.pdf", "error": "no text"}},
            "failed a.pdf (no text)",
        ),
        ("document_update", {"action": "processed", "document": {"filename": "a"}}, "processed a"),
        ("poll_opened", {"answers": 2}, '{"answers": 2}'),
        ("chat_message", None, '""'),
    ],
)
def test_each_event_is_a_line(kind: str, data: Any, text: str) -> None:
    """The time of day, the type, and what happened; events of one's own as they are."""
    assert line(kind, data) == f"12:00:00 {kind:<20} {text}"


def test_what_people_write_cannot_command_the_terminal() -> None:
    """Escape sequences, line breaks, and turned writing are shown, not obeyed."""
    shown = line("chat_message", {"username": "x\x1b[2J", "content": "a\r\nb\u202ec\x9b1m"})
    assert shown.endswith(r"x\x1b[2J: a\r\nb\u202ec\x9b1m")


def test_a_long_message_is_cut() -> None:
    """A line stays readable; `--json` has the whole."""
    shown = line("chat_message", {"username": "x", "content": "y" * 10_000})
    assert len(shown) < 400
    assert shown.endswith("y…")


def test_an_event_without_a_time_has_a_place_for_it() -> None:
    """Lines stay in columns; an error shows its words."""
    shown = click.unstyle(tail.line_of(event("error", message="no", timestamp=1)))
    assert shown == f'--:--:-- {"error":<20} "no"'


def test_the_connection_is_talked_about_elsewhere() -> None:
    """Greetings and resyncs are notices, everything else is not."""
    opened = event("connection_established", {"bot_name": "Demo", "role": "owner"})
    assert tail.notice_of(opened) == "watching Demo as owner"
    again = event("connection_established", {"recovered": True})
    assert str(tail.notice_of(again)).endswith("nothing was missed")
    assert "too_old" in str(tail.notice_of(event("resync", {"reason": "too_old"})))
    assert tail.notice_of(event("chat_message", DATA)) is None


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            Reconnecting(1, 0.52, 1013, ""),
            "1013, the server asks to try again later; trying again in 0.5 s",
        ),
        (Reconnecting(1, 2, 3456, "by\x1be"), "3456, by\\x1be; trying again in 2.0 s"),
        (Reconnecting(1, 2, None, "down"), "no token: down; trying again in 2.0 s"),
        (
            Reconnecting(1, 2, 1006, "[Errno 111] Connection refused"),
            "nothing answers at http://localhost:1: check --url or PORT; trying again in 2.0 s",
        ),
    ],
)
def test_a_lost_connection_is_said(
    told: Reconnecting, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, so that a pipe gets events alone."""
    tail.say_reconnecting("http://localhost:1", told)
    printed = capsys.readouterr()
    assert (printed.out, click.unstyle(printed.err)) == ("", f"• {words}\n")


def test_the_server_and_the_person_of_the_demo_need_no_naming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `bin/dev` running, the bot is enough."""
    asked: list[dict[str, Any]] = []
    dev_tokens.make_secret(tmp_path)
    monkeypatch.setattr(dev_tokens.mint, "__kwdefaults__", {"data": tmp_path})
    monkeypatch.setattr(
        tail, "RealtimeClient", lambda url, **more: asked.append({"url": url} | more)
    )
    tail.client_for({"PORT": "9"}, "b", url=None, token=None, user=None)
    (given,) = asked
    assert (given["url"], given["bot_id"]) == ("http://127.0.0.1:9", "b")
    assert given["token"].count(".") == 2
    monkeypatch.setattr(demo, "read_secret", lambda: None)
    assert tail._demo_user({}) == "ada"


@pytest.mark.gen_test
async def test_tokens_are_signed_anew_as_they_expire() -> None:
    """It may run for days; a token that was given is the only one."""
    environ = {"JWT_SECRET": SECRET}
    client = tail.client_for(environ, "b", url=None, token=None, user="u")
    assert isinstance(client, RealtimeClient)
    assert client._keeper._tokens.can_ask
    assert (await client._keeper._tokens._ask() or "").count(".") == 2
    client = tail.client_for({}, "b", url=None, token="t", user=None)
    assert not client._keeper._tokens.can_ask


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        ([BOT_ID], {"JWT_SECRET": SECRET}, "--user SUBJECT"),
        ([BOT_ID, "--user", "u", "--url", "nowhere"], {"JWT_SECRET": SECRET}, "no address"),
        ([BOT_ID, "--user", "u"], {"JWT_PUBLIC_KEY": "x"}, "JWT_PUBLIC_KEY"),
    ],
)
def test_what_the_user_can_put_right_is_one_line(
    arguments: list[str], environ: dict[str, str], words: str
) -> None:
    """And exit code 1."""
    result = call(*arguments, **environ)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["notabot"], "'notabot' is not a valid UUID"),
        ([BOT_ID, "--token", "t", "--user", "u"], "--token names the user already"),
    ],
)
def test_what_can_never_work_is_refused_before_connecting(arguments: list[str], words: str) -> None:
    """With a server that is away, it would try again for ever."""
    result = call(*arguments, JWT_SECRET=SECRET)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_a_server_without_the_client_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's wheel does not need it, for it is installed where no index has it."""
    monkeypatch.delitem(sys.modules, "realtime.tail.command")
    monkeypatch.setitem(sys.modules, "rowcast", None)
    done = call(BOT_ID, "--token", "t")
    assert (done.exit_code, done.stderr) == (
        1,
        "error: the Python client is missing: pip install ./clients/python, from a checkout\n",
    )
