"""The driver of the Python client: README.md beside this file describes it."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from rowcast import Closed, RealtimeClient, Reconnecting, SharedConnection, Timings
from rowcast.rules import NORMAL
from rowcast.tokens import GetToken


class Client:
    """One client, and what the application around it is told."""

    def __init__(self, name: str, options: dict[str, Any], driver: Driver) -> None:
        self._tell = partial(driver.tell, client=name)
        self._questions: list[asyncio.Future[str | None]] = []
        self._reading: asyncio.Task[None] | None = None
        self._shared, self._is_first = driver.shared_by(options, self._ask)
        self.client = self._of_shared(options) if self._shared else self._alone(options)

    def _alone(self, options: dict[str, Any]) -> RealtimeClient:
        return RealtimeClient(
            options["url"],
            bot_id=options.get("bot_id"),
            notifications=options.get("notifications", False),
            presence=options.get("presence", False),
            cursor=options.get("cursor"),
            on_reconnecting=self._say_reconnecting,
            **common(options, self._ask),
        )

    def _of_shared(self, options: dict[str, Any]) -> RealtimeClient:
        assert self._shared is not None
        cursor = options.get("cursor")
        if options.get("notifications"):
            return self._shared.notifications(cursor=cursor, on_reconnecting=self._say_reconnecting)
        return self._shared.chat(
            options["bot_id"],
            cursor=cursor,
            presence=options.get("presence", False),
            on_reconnecting=self._say_reconnecting,
        )

    async def start(self) -> None:
        if self._shared is not None and self._is_first:
            self._is_first = False
            await self._shared.__aenter__()
        await self.client.__aenter__()
        self._reading = asyncio.create_task(self._read())

    async def stop(self) -> None:
        await self.client.close()
        if self._reading is not None:
            await self._reading

    async def _read(self) -> None:
        code, reason = NORMAL, ""
        try:
            async for event in self.client:
                self._tell("message", message=dict(event.raw))
        except Closed as closed:
            code, reason = closed.code, closed.reason
        self._tell("closed", code=code, reason=reason)

    def _say_reconnecting(self, told: Reconnecting) -> None:
        delay = round(told.delay * 1000, 3)
        self._tell("reconnecting", attempt=told.attempt, delay=delay, code=told.code)

    async def _ask(self) -> str | None:
        question: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._questions.append(question)
        self._tell("token_wanted")
        return await question

    def answer(self, command: dict[str, Any]) -> None:
        question = self._questions.pop(0)
        if question.done():
            return  # it is not waited for any more
        if "error" in command:
            question.set_exception(RuntimeError(command["error"]))
        else:
            question.set_result(command["token"])

    def say_state(self) -> None:
        self._tell("state", state=self.client.state, cursor=self.client.cursor)


def common(options: dict[str, Any], ask: GetToken) -> dict[str, Any]:
    """What a shared connection takes as well as a client that is alone."""
    return {
        "token": options["token"],
        "get_token": ask if options.get("asks") else None,
        "timings": timings(options["timings"]),
        "random": lambda: options["random"],
    }


def timings(milliseconds: dict[str, float]) -> Timings:
    given: dict[str, Any] = {name: value / 1000 for name, value in milliseconds.items()}
    return replace(Timings(), **given)


class Driver:
    """Obeys commands in their order."""

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self._shared: dict[str, SharedConnection] = {}

    def shared_by(
        self, options: dict[str, Any], ask: GetToken
    ) -> tuple[SharedConnection | None, bool]:
        """The connection that the client shares, if any, and whether it is the first to do so."""
        name = options.get("socket")
        if name is None:
            return None, False
        is_first = name not in self._shared
        if is_first:
            self._shared[name] = SharedConnection(options["url"], **common(options, ask))
        return self._shared[name], is_first

    def tell(self, told: str, **more: Any) -> None:
        print(json.dumps({"told": told, **more}, default=repr), flush=True)

    async def obey(self, command: dict[str, Any]) -> None:
        name = command.get("client", "main")
        match command["do"]:
            case "connect":
                if name not in self._clients:
                    self._clients[name] = Client(name, command["options"], self)
                await self._clients[name].start()
            case "reset":
                for client in self._clients.values():
                    await client.stop()
                for shared in self._shared.values():
                    await shared.close()
                self._clients.clear()
                self._shared.clear()
                self.tell("ready", shares=True)
            case "state" if name not in self._clients:
                self.tell("state", client=name, state="idle", cursor=None)
            case kind:
                await self._obey_as(self._clients[name], kind, command)

    async def _obey_as(self, one: Client, kind: str, command: dict[str, Any]) -> None:
        client = one.client
        match kind:
            case "close":
                await one.stop()
            case "state":
                one.say_state()
            case "typing":
                client.typing(command["value"])
            case "session_sync":
                client.session_sync(command["session_id"])
            case "ping":
                client.ping()
            case "refresh":
                client.refresh(command["token"])
            case "token":
                one.answer(command)
            case _:
                raise ValueError(f"no such command: {kind}")


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=2**24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main() -> None:
    # What goes wrong on purpose is told as the scenarios compare it, and logged besides.
    logging.getLogger("rowcast").addHandler(logging.NullHandler())
    driver = Driver()
    commands = await lines()
    driver.tell("ready", shares=True)
    while line := await commands.readline():
        command = json.loads(line)
        if command["do"] == "quit":
            return
        await driver.obey(command)


if __name__ == "__main__":
    asyncio.run(main())
