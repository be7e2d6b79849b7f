"""The judge of the fuzz suite finds what it is there for, and attacks can be repeated."""

from __future__ import annotations

import os
import random
import socket
import struct
from pathlib import Path

import pytest

from tests.fuzz import mutation, report
from tests.fuzz.attackers import KINDS
from tests.fuzz.report import Report, Round
from tests.fuzz.watch import Watch
from tests.fuzz.wire import CLOSE, TEXT, Finding, close_code, frame, greeting, refuse_errors
from tests.fuzz.witness import Latencies

LET_IN = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
GREETING = b'{"type":"connection_established","data":{"cursor":"c"}}'


def told(opcode: int, payload: bytes) -> bytes:
    """A frame of the server's."""
    return frame(opcode, payload, masked=False)


def test_a_quiet_run_has_nothing_to_find() -> None:
    """With figures that are all right."""
    took = Latencies(100, 0.002, 0.01, 0.5)
    good = Report(1, 10.0, [Round("http", 5, took, 80.0)], (70, 80, 75), (11, 12), 0.5)
    assert good.findings == []
    assert good.lines()[-1] == "seed 1: nothing found"


def test_figures_that_are_too_high_are_found() -> None:
    """Each of them; latency apart, which a busy machine explains, too."""
    took = Latencies(100, 0.002, 0.01, report.WORST_SECONDS + 1)
    bad = Report(1, 10.0, [Round("http", 5, took, 80.0)], (70, 900, 75), (11, 99), 50.0)
    assert len(bad.of_life_and_memory) == 3
    assert bad.of_latency == ["a message took 3.0 s during http"]
    bad.complaints.append("it ended")
    bad.forgeries.append("let in")
    assert len(bad.findings) == 6


@pytest.mark.parametrize("size", [0, 125, 126, 70_000])
def test_the_frames_of_the_server_are_read(size: int) -> None:
    """Whatever comes before, and whether or not a frame is whole."""
    before = LET_IN + told(TEXT, b"x" * size)
    closed = before + told(CLOSE, struct.pack("!H", 4003) + b"why")
    assert close_code(closed) == 4003
    assert close_code(closed[:-1]) is None
    assert close_code(before) is None
    assert greeting(before + told(TEXT, GREETING)) == {"cursor": "c"}
    assert greeting(before) is None


def test_errors_of_the_server_are_found() -> None:
    """An HTTP 500 and the close code 1011; not what a refusal looks like."""
    error, echo = struct.pack("!H", 1011) + b"unexpected error", struct.pack("!H", 1011)
    for answer in (b"HTTP/1.1 500 Error\r\n\r\n", LET_IN + told(CLOSE, error)):
        with pytest.raises(Finding):
            refuse_errors(answer)
    for answer in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", LET_IN + told(CLOSE, echo)):
        refuse_errors(answer)


def test_memory_and_sockets_of_a_process_are_seen(tmp_path: Path) -> None:
    """Of this process, which takes some of both, and of one that is gone."""
    log = tmp_path / "log"
    log.write_text("before")
    watch = Watch(os.getpid(), log)
    log.write_text("before" + "x" * 2**20)
    assert watch.logged_megabytes == 1
    block = bytearray(os.urandom(64)) * 2**20
    assert watch.take_peak() > watch.before + len(block) / 2**21
    pair = socket.socketpair()
    assert watch.descriptors == watch.descriptors_before + 2
    for one in pair:
        one.close()
    gone = Watch(2**22 + 1, log)
    assert (gone.before, gone.descriptors) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_makes_the_same_choices_again(seed: int) -> None:
    """So that an attack that found something can be made again."""

    def choices() -> list[object]:
        chance = random.Random(seed)
        made: list[object] = [mutation.mutate(b"some good input", chance) for _ in range(50)]
        return [*made, *(mutation.any_message(chance) for _ in range(50))]

    assert choices() == choices()


def test_each_kind_of_attack_says_what_it_is() -> None:
    """For `bin/fuzz --help` and the docs, which name them."""
    assert all(attack.__doc__ for attack in KINDS.values())
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text("utf-8")
    assert all(f"| `{kind}` |" in page for kind in KINDS)
