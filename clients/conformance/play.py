"""Plays scenarios to a client: is its server, tells its driver what to do, and compares.

    python clients/conformance/play.py node clients/conformance/driver.mjs

README.md beside this file describes scenarios and drivers. It needs Tornado.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

SCENARIOS: Final = Path(__file__).parent / "scenarios"
LIMIT: Final = 30.0
"""Seconds for anything that is waited for; a busy machine is slow, and a failure may take long."""
TIMINGS: Final = {"backoff_first": 10, "backoff_most": 40}
"""Short, so that nothing is waited for; all else is as in rules.json."""
RESET: Final = struct.pack("ii", 1, 0)


class Failed(Exception):
    """The client did something else than the scenario says."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is in scenarios/*.json."""

    name: str
    options: Mapping[str, Any]
    steps: list[dict[str, Any]]


def scenarios() -> Iterator[Scenario]:
    """All of them, in the order of the files."""
    for path in sorted(SCENARIOS.glob("*.json")):
        for one in json.loads(path.read_text("utf-8")):
            yield Scenario(one["name"], one.get("options", {}), one["steps"])


class Connection(WebSocketHandler):
    """One connection of the client's, played by the steps."""

    def initialize(self, arrived: asyncio.Queue[Connection]) -> None:
        self._arrived = arrived
        self._heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._is_deaf = False
        self._is_over = asyncio.Event()

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "bearer" if "bearer" in subprotocols else None

    def check_origin(self, origin: str) -> bool:
        return True

    def open(self, *_args: str, **_kwargs: str) -> None:
        self.set_nodelay(True)
        self._arrived.put_nowait(self)

    async def on_message(self, message: str | bytes) -> None:
        self._heard.put_nowait(json.loads(message))
        if self._is_deaf:
            await self._is_over.wait()  # and nothing more is read

    @property
    def described(self) -> dict[str, Any]:
        """As a step `accept` compares it."""
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        header = self.request.headers.get("Authorization", "")
        query = {name: self.get_argument(name) for name in self.request.arguments}
        in_protocol = offered[1].strip() if offered[0].strip() == "bearer" else None
        token = header.removeprefix("Bearer ") or in_protocol or query.get("token")
        return {
            "path": self.request.path,
            "token": token,
            "cursor": query.get("cursor"),
            "presence": query.get("presence"),
        }

    async def hear(self, expected: Mapping[str, Any]) -> dict[str, Any]:
        """The next message; pings are for those who wait for one."""
        while True:
            message = await self._heard.get()
            if message["type"] != "ping" or expected.get("type") == "ping":
                return message

    @property
    def unheard(self) -> list[dict[str, Any]]:
        waiting = [self._heard.get_nowait() for _ in range(self._heard.qsize())]
        # What a client says when it is told to leave is nobody's step.
        return [one for one in waiting if one["type"] not in ("ping", "unsubscribe")]

    def be_deaf(self) -> None:
        self._is_deaf = True

    def be_over(self) -> None:
        """Read again: who does not read is not told that the client has left."""
        self._is_over.set()

    def cut(self) -> None:
        """Reset the TCP connection."""
        assert self.ws_connection is not None
        stream = self.ws_connection.stream
        assert stream is not None
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        stream.close()


class Driver:
    """The program around a client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, command: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def told(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise Failed("the driver has ended: its standard error says why")
        told: dict[str, Any] = json.loads(line)
        return {"client": "main", **told}


class Stage:
    """One server and one driver, for any number of scenarios."""

    def __init__(
        self, driver: Driver, arrived: asyncio.Queue[Connection], port: int, *, shares: bool
    ) -> None:
        self.shares = shares
        """Whether several of the client can share a connection."""
        self._driver = driver
        self._arrived = arrived
        self._url = f"http://127.0.0.1:{port}"
        self._options: Mapping[str, Any] = {}
        self._connection: Connection | None = None
        self._deaf: list[Connection] = []

    async def play(self, scenario: Scenario) -> None:
        """Raises `Failed` with the number of the step."""
        self._options = scenario.options
        self._connection = None
        number = 0
        try:
            async with asyncio.timeout(LIMIT):
                for step in scenario.steps:
                    number += 1
                    await self._take(step)
                number += 1
                await self._end()
        except TimeoutError:
            raise Failed(f"step {number}: it did not happen: {_shown(scenario, number)}") from None
        except Failed as failed:
            raise Failed(f"step {number}: {failed}: {_shown(scenario, number)}") from None
        finally:
            while self._deaf:
                self._deaf.pop().be_over()

    async def _take(self, step: dict[str, Any]) -> None:
        ((kind, value),) = step.items()
        await getattr(self, f"_step_{kind}")(value)

    async def _step_client(self, command: dict[str, Any]) -> None:
        await self._driver.tell(self._complete(command))

    def _complete(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] != "connect":
            return command
        own = {**self._options, **command.get("options", {})}
        timings = TIMINGS | own.get("timings", {})
        options = {"url": self._url, "random": 0.5, "token": None, **own, "timings": timings}
        return {**command, "options": options}

    async def _step_told(self, expected: dict[str, Any]) -> None:
        _compare({"client": "main", **expected}, await self._driver.told())

    async def _step_any(self, several: list[dict[str, Any]]) -> None:
        """So many lines, in any order."""
        left = [{"client": "main", **one} for one in several]
        while left:
            told = await self._driver.told()
            fitting = [one for one in left if _fits(one, told)]
            if not fitting:
                raise Failed(f"the driver told {told}")
            left.remove(fitting[0])

    async def _step_accept(self, expected: dict[str, Any]) -> None:
        self._connection = await self._arrived.get()
        _compare(expected, self._connection.described)

    async def _step_send(self, message: dict[str, Any]) -> None:
        await self._say(json.dumps(message))

    async def _step_frame(self, text: str) -> None:
        await self._say(text)

    async def _step_binary(self, digits: str) -> None:
        await self._present.write_message(bytes.fromhex(digits), binary=True)

    async def _say(self, text: str) -> None:
        try:
            await self._present.write_message(text)
        except WebSocketClosedError:
            raise Failed("the client has closed the connection") from None

    async def _step_receive(self, expected: dict[str, Any] | list[dict[str, Any]]) -> None:
        left = expected if isinstance(expected, list) else [expected]
        while left:
            message = await self._present.hear(left[0])
            fitting = [one for one in left if _fits(one, message)]
            _compare(fitting[0] if fitting else left[0], message)
            left = [one for one in left if one is not fitting[0]]

    async def _step_close(self, ending: dict[str, Any]) -> None:
        self._present.close(ending["code"], ending.get("reason", ""))

    async def _step_cut(self, _value: object) -> None:
        self._present.cut()

    async def _step_deaf(self, _value: object) -> None:
        self._present.be_deaf()
        self._deaf.append(self._present)

    @property
    def _present(self) -> Connection:
        if self._connection is None:
            raise Failed("there is no connection: a step `accept` is missing")
        return self._connection

    async def _end(self) -> None:
        """Nothing else was told, said or opened; then the driver is made new."""
        await self._driver.tell({"do": "state"})
        _compare({"told": "state"}, await self._driver.told())
        await self.reset()
        if self._connection is not None and (more := self._connection.unheard):
            raise Failed(f"the client said {more[0]}")
        if not self._arrived.empty():
            raise Failed(f"the client connected: {self._arrived.get_nowait().described}")

    async def reset(self) -> None:
        """As it is between scenarios, also after one that failed."""
        await self._driver.tell({"do": "reset"})
        async with asyncio.timeout(LIMIT):
            while (await self._driver.told())["told"] != "ready":
                pass

    def forget(self) -> None:
        """What came while a scenario failed."""
        while not self._arrived.empty():
            self._arrived.get_nowait()


def _shown(scenario: Scenario, number: int) -> str:
    steps = scenario.steps
    return json.dumps(steps[number - 1]) if 0 < number <= len(steps) else "after the last step"


def _compare(expected: object, found: object, where: str = "") -> None:
    """Objects may have more members than expected; all else is equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name, value in expected.items():
            if name not in found:
                raise Failed(f"{where}{name} is missing in {found}")
            _compare(value, found[name], f"{where}{name}.")
    elif expected != found:
        raise Failed(f"{where or 'it'} is {found!r}, not {expected!r}")


def _fits(expected: object, found: object) -> bool:
    try:
        _compare(expected, found)
    except Failed:
        return False
    return True


@asynccontextmanager
async def stage(command: list[str], **options: Any) -> AsyncIterator[Stage]:
    """A server, and a driver that is ready. `options` are those of the subprocess."""
    arrived: asyncio.Queue[Connection] = asyncio.Queue()
    sock, port = bind_unused_port()
    server = HTTPServer(Application([("/.*", Connection, {"arrived": arrived})]))
    server.add_socket(sock)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, **options
    )
    try:
        driver = Driver(process)
        async with asyncio.timeout(LIMIT):
            ready = await driver.told()
        _compare({"told": "ready"}, ready)
        yield Stage(driver, arrived, port, shares=ready.get("shares", False))
        await driver.tell({"do": "quit"})
        async with asyncio.timeout(LIMIT):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        server.stop()
        await server.close_all_connections()
        await server.close_all_connections()


async def play_all(command: list[str], **options: Any) -> AsyncIterator[tuple[str, Failed | None]]:
    """Play every scenario; yields its name, and how it failed."""
    async with stage(command, **options) as played:
        for scenario in scenarios():
            if "socket" in scenario.options and not played.shares:
                continue
            try:
                await played.play(scenario)
            except Failed as failed:
                yield scenario.name, failed
                await played.reset()
                played.forget()
            else:
                yield scenario.name, None


async def main(command: list[str]) -> int:
    """Print a line for each scenario."""
    failures = 0
    async for name, failed in play_all(command):
        failures += failed is not None
        print(f"FAILED {name}\n       {failed}" if failed else f"ok     {name}")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
