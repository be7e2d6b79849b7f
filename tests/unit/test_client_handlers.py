"""The callback style of the Python client: handlers in place of a loop."""

from __future__ import annotations

import asyncio

import pytest

from rowcast import Closed, Event, RealtimeClient
from tests.unit.client_fakes import URL, FakeServer, settle


class Run:
    """A client that runs its handlers, and what they were called with."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.client = RealtimeClient(URL, token="t", bot_id="b", open_socket=self.server.open)
        self.called: list[str] = []
        self.running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.running = asyncio.create_task(self.client.run())
        await settle()
        self.server.socket.greet()
        await settle()

    async def end(self) -> BaseException | None:
        """How the run ended."""
        assert self.running is not None
        await asyncio.wait([self.running])
        return self.running.exception()


@pytest.mark.gen_test
async def test_handlers_are_called_by_type_one_event_after_another() -> None:
    """Plain ones and async ones, and those for all types after them; `close` ends the run."""
    run = Run()
    held = asyncio.Event()

    @run.client.on("chat_message")
    async def slow(event: Event) -> None:
        run.called.append(f"begun {event.id}")
        await held.wait()
        run.called.append(f"done {event.id}")

    @run.client.on()
    def every(event: Event) -> None:
        run.called.append(event.type)

    await run.start()
    run.server.socket.say("chat_message", {}, id="1")
    run.server.socket.say("*", {}, id="2")
    await settle()
    assert run.called == ["connection_established", "begun 1"]
    held.set()
    await settle()
    assert run.called[2:] == ["done 1", "chat_message", "*"]
    await run.client.close()
    assert await run.end() is None


@pytest.mark.gen_test
async def test_a_final_code_ends_the_run() -> None:
    """As iterating does."""
    run = Run()
    await run.start()
    run.server.socket.end(4003, "why")
    error = await run.end()
    assert isinstance(error, Closed)
    assert error.code == 4003


@pytest.mark.gen_test
async def test_a_handler_that_fails_ends_the_run_and_closes_the_client() -> None:
    """An application's own error is not swallowed."""
    run = Run()

    @run.client.on("chat_message")
    def fail(event: Event) -> None:
        raise LookupError(event.id)

    await run.start()
    run.server.socket.say("chat_message", {}, id="1", cursor="c1")
    assert isinstance(await run.end(), LookupError)
    assert run.server.socket.closed_with == 1000
    assert run.client.state == "closed"
