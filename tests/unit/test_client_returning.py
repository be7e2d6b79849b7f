"""When the Python client comes back, how it notices silence, and when it gives up."""

from __future__ import annotations

import pytest

from rowcast import Closed, Reconnecting, Timings
from tests.unit.client_fakes import Played, settle


@pytest.mark.gen_test
@pytest.mark.parametrize("code", [1000, 4003, 4029])
async def test_final_codes_are_raised(code: int) -> None:
    """After what had arrived before; no further attempt is made, and it is told each time."""
    async with Played() as played:
        played.socket.greet()
        await played.lose(code, "why")
        assert isinstance(played.raised, Closed)
        assert (played.raised.code, played.raised.reason) == (code, "why")
        assert played.types == ["connection_established"]
        assert (len(played.server.sockets), played.told) == (1, [])
        assert played.client.state == "closed"
        with pytest.raises(Closed):
            await anext(played.client)


def test_an_ending_reads_well() -> None:
    """The code, what it means, and the server's words, where there are any."""
    assert str(Closed(4003)) == "4003, no such bot, or no permission"
    assert str(Closed(4003, "access ended")) == "4003, access ended"
    assert str(Closed(1006, "reset")) == "1006, the connection was cut: reset"
    assert str(Closed(3456)) == "3456, closed with code 3456"


@pytest.mark.gen_test
@pytest.mark.parametrize("code", [1001, 1006, 1009, 1011, 1013, 4000, 3999])
async def test_after_all_else_it_comes_back(code: int) -> None:
    """And says so, with the wait."""
    async with Played() as played:
        played.socket.greet()
        await played.lose(code, "why")
        assert played.told == [Reconnecting(1, 0.5, code, "why")]
        assert len(played.server.sockets) == 2


@pytest.mark.gen_test
async def test_waits_double_up_to_a_limit() -> None:
    """Half of 1, 2, 4 … 30 s, with this chance; a thousand attempts overflow nothing."""
    async with Played() as played:
        played.server.is_down = True
        await played.lose(1006, wait=20_000)
        delays = [one.delay for one in played.told]
        assert delays[:7] == [0.5, 1, 2, 4, 8, 15, 15]
        assert delays[-1] == 15
        assert len(delays) > 1000
        assert played.told[-1].reason == "refused"


@pytest.mark.gen_test
async def test_a_client_that_is_woken_does_not_sit_out_its_wait() -> None:
    """And one that waits for nothing goes on as it is."""
    async with Played() as played:
        played.socket.greet()
        await settle()
        played.client.wake()
        await played.lose(1006, wait=0)
        assert (played.client.state, len(played.server.sockets)) == ("reconnecting", 1)
        played.client.wake()
        await settle()
        assert len(played.server.sockets) == 2


@pytest.mark.gen_test
async def test_only_a_connection_that_held_starts_anew() -> None:
    """A handshake alone does not: refusals complete it too."""
    async with Played() as played:
        for _ in range(3):
            played.socket.greet()
            await played.lose(1013)
        assert [one.delay for one in played.told] == [0.5, 1, 2]
        played.socket.greet()
        await played.time.move(10)
        await played.lose(1013)
        assert played.told[-1].delay == 0.5


@pytest.mark.gen_test
async def test_who_sent_too_much_waits_longer() -> None:
    """As if four attempts had failed already."""
    async with Played() as played:
        played.socket.greet()
        await played.lose(1008)
        assert played.told == [Reconnecting(5, 8.0, 1008, "")]


@pytest.mark.gen_test
async def test_a_server_that_does_not_answer_is_left() -> None:
    """The handshake was done, and nothing came."""
    async with Played() as played:
        await played.time.move(16)
        assert played.told == [Reconnecting(1, 0.5, 4000, "the server did not answer")]


@pytest.mark.parametrize("frame", ['{"type": "pong"}', "{", '{"type": "error", "code": "x"}'])
@pytest.mark.gen_test
async def test_a_server_that_says_anything_but_its_greeting_is_left(frame: str) -> None:
    """As one that says nothing."""
    async with Played() as played:
        played.socket.frame(frame)
        await played.time.move(14)
        played.socket.frame(frame)
        await played.time.move(0.9)
        assert (played.client.state, played.told) == ("connecting", [])
        await played.time.move(0.2)
        assert [told.code for told in played.told] == [4000]


@pytest.mark.gen_test
async def test_silence_ends_a_connection() -> None:
    """It pings after 25 to 30 s, and what is not heard of for 10 s more is left behind."""
    async with Played() as played:
        played.socket.greet()
        await played.time.move(27.5)
        assert len(played.socket.of_type("ping")) == 1
        await played.time.move(9.9)
        assert played.told == []
        await played.time.move(0.2)
        assert played.told == [Reconnecting(1, 0.5, 4000, "no answer to a ping")]


@pytest.mark.gen_test
async def test_each_silence_makes_the_client_more_patient() -> None:
    """A large message on a slow line is silence, and comes anew on each connection."""
    async with Played() as played:
        for seconds in (10, 40, 160, 640, 2_560, 10_240, 10_240):
            gave_up = len(played.told)
            played.socket.greet()
            await played.time.move(27.5)
            await played.time.move(seconds - 0.1)
            assert len(played.told) == gave_up
            await played.time.move(0.2)
            assert len(played.told) == gave_up + 1
            await played.time.move(0.5)
        played.socket.greet()
        await played.time.move(27.5 + 9_000)
        played.socket.say("chat_message", {}, id="large")
        played.socket.say("pong")
        await played.time.move(27.5 + 10.1)
        assert (played.ids, len(played.told)) == (["large"], 8)


@pytest.mark.gen_test
async def test_a_server_that_does_not_answer_takes_no_patience() -> None:
    """Nothing large can be on its way before the greeting."""
    async with Played() as played:
        await played.time.move(16)
        played.socket.greet()
        await played.time.move(27.5 + 10.1)
        assert played.told[-1] == Reconnecting(1, 0.5, 4000, "no answer to a ping")


@pytest.mark.gen_test
async def test_silence_ends_a_connection_that_only_hears() -> None:
    """No ping can be sent. The server's comments come every 25 s; 35 s without one are enough."""
    async with Played() as played:
        played.socket.hears_only = True
        played.socket.greet()
        for _ in range(8):
            await played.time.move(25)
            played.socket.say("pong")
        assert played.told == []
        await played.time.move(27.5 + 35)
        assert played.told[:1] == [Reconnecting(1, 0.5, 4000, "nothing was heard")]


@pytest.mark.gen_test
async def test_an_answer_is_measured_and_keeps_the_connection() -> None:
    """The pong that fits tells how long it took; any other frame is as good a sign of life."""
    async with Played() as played:
        played.socket.greet()
        await played.time.move(27.5)
        await played.time.move(0.25)
        played.socket.say("pong", timestamp=played.socket.of_type("ping")[0]["timestamp"])
        await played.time.move(27.5)
        assert played.client.latency == 0.25
        played.socket.say("chat_message", {}, id="1")
        await played.time.move(20)
        assert (played.told, len(played.socket.of_type("ping"))) == ([], 2)


@pytest.mark.gen_test
async def test_many_pings_of_ones_own_are_not_remembered_without_end() -> None:
    """Ten at most; the limit for an answer runs from the first."""
    async with Played() as played:
        played.socket.greet()
        await settle()
        for _ in range(25):
            assert played.client.ping()
        first = played.socket.of_type("ping")[0]["timestamp"]
        played.socket.say("pong", timestamp=first)
        await settle()
        assert played.client.latency is None


@pytest.mark.gen_test
async def test_an_application_that_does_not_look_is_no_silence() -> None:
    """The queue is full, the socket is not read, and nobody is blamed for that."""
    async with Played(timings=Timings(queue_events=2)) as played:
        await played.stop_reading()
        played.socket.greet()
        for number in range(10):
            played.socket.say("chat_message", {}, id=str(number))
        await played.time.move(300)
        assert played.client.ping()
        await played.time.move(300)
        assert played.told == []
        assert played.socket.unread == 11 - 3  # two in the queue, one on its way
        played.read()
        await settle()
        assert played.ids == [str(number) for number in range(10)]
