"""`bin/tail`: prints what happens on a bot, a line for each event.

Events go to standard output; how the connection fares goes to standard error, so that a pipe gets
events alone. What people wrote is printed without anything that a terminal would obey.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, tzinfo
from functools import partial
from typing import Any, Final

import click

from realtime.auth.signing import mint
from realtime.dev.demo import is_of_the_demo, subject_for
from realtime.errors import CommandError
from realtime.relay.closing import CloseCode
from rowcast import Closed, Event, RealtimeClient, Reconnecting
from rowcast.rules import CUT
from rowcast.tokens import GetToken

DEFAULT_PORT: Final = 8000
TOKEN_SECONDS: Final = 3600
MAX_CHARACTERS: Final = 300
TOKEN_HINT: Final = (
    ". Check that JWT_SECRET is the server's. If the server's log has subject_unfit, --user is of"
    " the wrong kind for JWT_SUBJECT"
)
QUIET: Final = frozenset({"token_expiring", "authenticated"})
COLOURS: Final = {
    "chat_message": "green",
    "chat_message_update": "yellow",
    "typing_indicator": "bright_black",
    "permission_change": "magenta",
    "bot_update": "blue",
    "document_update": "cyan",
    "error": "red",
}


class TailError(CommandError):
    """The address or the user is missing or wrong, or the server closed for good."""


def client_for(
    environ: Mapping[str, str], bot: str, *, url: str | None, token: str | None, user: str | None
) -> RealtimeClient:
    """A client, for the server that `bin/dev` runs where nothing else is said.

    Args:
        token: None: tokens are signed for `user` by the environment's secret, or the checkout's.
        user: a token's subject; None: the demo's owner, where the secret is `bin/dev`'s.

    Raises:
        SettingsError: there is nothing to sign with.
        TailError: the address is none; it cannot be known who the user is.
    """
    port, base = environ.get("PORT") or DEFAULT_PORT, environ.get("BASE_PATH", "")
    url = url or f"http://127.0.0.1:{port}{base}"
    get_token: GetToken | None = None
    if token is None:
        subject = subject_for(environ, user or _demo_user(environ))
        sign = partial(mint, environ, subject, ttl=TOKEN_SECONDS, is_admin=False)
        token = sign(now=time.time())

        async def get_token() -> str:
            return sign(now=time.time())

    try:
        return RealtimeClient(
            url,
            token=token,
            get_token=get_token,
            bot_id=bot,
            on_reconnecting=partial(say_reconnecting, url),
        )
    except ValueError as error:
        raise TailError(str(error)) from error


def _demo_user(environ: Mapping[str, str]) -> str:
    if not is_of_the_demo(environ):
        raise TailError("say who is watching: --user SUBJECT, or --token TOKEN")
    return "ada"


def run(client: RealtimeClient, *, as_json: bool) -> None:
    """Print until Ctrl-C, which ends it quietly.

    Raises:
        TailError: the server closed the connection for good.
    """
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_print_all(client, as_json))
    except Closed as error:
        hint = TOKEN_HINT if error.code == CloseCode.UNAUTHENTICATED else ""
        raise TailError(f"{error}{hint}") from error


async def _print_all(client: RealtimeClient, as_json: bool) -> None:
    async with client as events:
        async for event in events:
            if (notice := notice_of(event)) is not None:
                say(notice)
            if as_json:
                click.echo(json.dumps(event.raw, default=str))
            elif notice is None and event.type not in QUIET:
                click.echo(line_of(event))


def say(notice: str) -> None:
    """Print a line about the connection."""
    click.echo(click.style(f"• {notice}", dim=True), err=True)


def say_reconnecting(url: str, told: Reconnecting) -> None:
    """Print that the client connects again, and when."""
    if is_unreachable(told):
        why = f"nothing answers at {url}: check --url or PORT"
    elif told.code is None:
        why = f"no token: {told.reason}"
    else:
        why = str(Closed(told.code, told.reason))
    say(f"{visible(why)}; trying again in {told.delay:.1f} s")


def is_unreachable(told: Reconnecting) -> bool:
    """Whether no connection could be made, in place of one that was lost."""
    return told.code == CUT and "refused" in told.reason.lower()


def notice_of(event: Event) -> str | None:
    """What the event says of the connection, if that is what it is about."""
    data = event.data if isinstance(event.data, dict) else {}
    if event.type == "resync":
        return f"some events were lost for good ({visible(data.get('reason'))}); live from here on"
    if event.type != "connection_established":
        return None
    what = f"watching {visible(data.get('bot_name'))} as {visible(data.get('role'))}"
    return f"{what}, nothing was missed" if data.get("recovered") else what


def line_of(event: Event, zone: tzinfo | None = None) -> str:
    """One line: the time of day (here, unless another zone is given), the type, what happened."""
    data = event.data if isinstance(event.data, dict) else {}
    describe = _DESCRIPTIONS.get(event.type)
    text = visible(describe(data) if describe and data else _rest_of(event))
    if len(text) > MAX_CHARACTERS:
        text = text[: MAX_CHARACTERS - 1] + "…"
    kind = click.style(f"{visible(event.type):<20}", fg=COLOURS.get(event.type, "white"))
    return f"{click.style(_time_of(event, zone), dim=True)} {kind} {text}"


def visible(text: object) -> str:
    """Nothing that moves the cursor, changes colours or turns the direction of writing."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text)
    )


def _time_of(event: Event, zone: tzinfo | None) -> str:
    try:
        written = datetime.fromisoformat(str(event.raw.get("timestamp"))).astimezone(zone)
    except (ValueError, OverflowError):
        return "--:--:--"
    return written.strftime("%H:%M:%S")


def _rest_of(event: Event) -> str:
    rest = event.data if event.data is not None else event.raw.get("message", "")
    return json.dumps(rest, ensure_ascii=False, default=str)


def _message(data: dict[str, Any]) -> str:
    role = data.get("role") or "user"
    # An assistant's message may have the user whom it answers.
    who = (data.get("username") or "somebody") if role == "user" else role
    return f"{who}: {data.get('content')}"


def _message_update(data: dict[str, Any]) -> str:
    if data.get("action") == "deleted":
        return f"deleted {data.get('message_id')}"
    return f"{data.get('action')}, {_message(data)}"


def _typing(data: dict[str, Any]) -> str:
    return f"{data.get('username')} {'is typing' if data.get('is_typing') else 'stopped typing'}"


def _permission(data: dict[str, Any]) -> str:
    details = data.get("details") or {}
    return f"{data.get('action')} {details.get('role')}: user {data.get('target_user_id')}"


def _bot(data: dict[str, Any]) -> str:
    return f"{data.get('update_type')} {json.dumps(data.get('details'), ensure_ascii=False)}"


def _document(data: dict[str, Any]) -> str:
    document = data.get("document") or {}
    error = f" ({document['error']})" if document.get("error") else ""
    return f"{data.get('action')} {document.get('filename')}{error}"


_DESCRIPTIONS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "chat_message": _message,
    "chat_message_update": _message_update,
    "typing_indicator": _typing,
    "permission_change": _permission,
    "bot_update": _bot,
    "document_update": _document,
}
