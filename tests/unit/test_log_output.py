"""Log lines go to pipes and sockets that are read late, or never; nobody waits for that."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.log_line import LogLine
from realtime.runtime.log_output import Output, OutputHandler, Unread, log, make_handler

LINE = b"x" * 999 + b"\n"
READ_BYTES = 4096


class Full:
    """A pipe into which nothing more goes, and an output for it that has no patience."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        os.set_blocking(self.reader, False)
        self.output = Output(self._writer, lambda data: os.write(self._writer, data), patience=0)
        self.written = 0
        with suppress(Unread):
            while True:
                self.output.write(LINE)
                self.written += 1

    def read(self, most: int = 2**20) -> bytes:
        found = b""
        with suppress(BlockingIOError):
            while len(found) < most:
                found += os.read(self.reader, min(READ_BYTES, most - len(found)))
        return found

    def close(self) -> None:
        os.close(self._writer)
        os.close(self.reader)


@pytest.fixture
def full() -> Iterator[Full]:
    one = Full()
    yield one
    one.close()


def said(text: str) -> logging.LogRecord:
    return logging.LogRecord("realtime.test", logging.INFO, "", 0, LogLine(text), None, None)


def test_a_line_that_nobody_reads_is_not_written_in_part(full: Full) -> None:
    """What is read afterwards are whole lines."""
    assert full.read() == LINE * full.written


def test_a_long_line_is_finished_before_the_next(full: Full) -> None:
    """Longer than a pipe takes at once: its end waits until there is room."""
    full.read()
    long = b"a" * 200_000 + b"\n"
    full.output.write(long)
    with pytest.raises(Unread):
        full.output.write(b"lost\n")
    found = full.read()
    while len(found) < len(long):
        with suppress(Unread):
            full.output.write(b"next\n")
        found += full.read()
    assert found.rstrip(b"next\n") == long.rstrip(b"\n")
    assert found.startswith(long)


@given(
    acts=st.lists(
        st.one_of(st.integers(1, 9000), st.just("read a page"), st.just("read all")), max_size=80
    )
)
def test_a_line_is_read_or_counted_as_lost(acts: list[int | str]) -> None:
    """Whatever is written, and whenever it is read: no line comes in part, twice or out of turn."""
    full = Full()
    monkey = pytest.MonkeyPatch()
    try:
        handler = OutputHandler(full.output, lambda: None)
        monkey.setattr(log, "handlers", [handler])
        found, number = b"", 0
        for act in acts:
            if isinstance(act, int):
                handler.emit(said(f"{number}:" + "y" * act))
                number += 1
            else:
                found += full.read(READ_BYTES if act == "read a page" else 2**20)
        found += full.read()
        while not found.endswith(b"\nlast\n"):
            handler.emit(said("last"))
            found += full.read()
    finally:
        full.close()
        monkey.undo()
    lines = found.removeprefix(LINE * full.written).decode().splitlines()
    read = [int(line.partition(":")[0]) for line in lines if line.endswith("y")]
    lost = [int(line.partition("=")[2]) for line in lines if line.startswith("log_lines_lost ")]
    assert read == sorted(set(read))
    assert len(read) + sum(lost) + lines.count("last") >= number + 1
    assert len(read) + sum(lost) <= number + lines.count("last")


def test_a_reader_that_is_gone_fails_nobody(full: Full) -> None:
    """As where the collector of the log was ended."""
    os.close(full.reader)
    handler = OutputHandler(full.output, lambda: None)
    handler.emit(said("nobody"))
    full.reader = os.open(os.devnull, os.O_RDONLY)


@pytest.mark.parametrize("ends", [os.pipe, lambda: tuple(map(detached, socket.socketpair()))])
def test_a_pipe_and_a_socket_are_written_to_without_waiting(
    ends: Callable[[], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other holders of the same file still wait as they did."""
    monkeypatch.setattr("realtime.runtime.log_output.PATIENCE_SECONDS", 0.0)
    reader, writer = ends()
    with os.fdopen(reader, "rb", buffering=0) as read, os.fdopen(writer, "w") as stream:
        handler = make_handler(stream)
        assert isinstance(handler, OutputHandler)
        for _ in range(5000):  # far more than it holds
            handler.emit(said("z" * 999))
        assert os.get_blocking(writer)
        assert read.read(1000) == b"z" * 999 + b"\n"
        handler.close()


def detached(one: socket.socket) -> int:
    return one.detach()


def test_a_file_is_written_behind_what_others_write(tmp_path: Path) -> None:
    """As several processes of one server do."""
    path = tmp_path / "log"
    with path.open("a+") as stream, path.open("a") as other:
        handler = make_handler(stream)
        for number in range(3):
            handler.emit(said(f"ours{number}"))
            print("theirs", file=other, flush=True)
        handler.close()
        print("last", file=stream)
    assert path.read_text() == "ours0\ntheirs\nours1\ntheirs\nours2\ntheirs\nlast\n"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_lines_lost_to_a_full_disk_are_counted(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None comes in part: what was begun is finished once there is room."""
    with (tmp_path / "log").open("wb") as file:
        room = 8

        def write(data: bytes) -> int:
            nonlocal room
            if not room:
                raise OSError(error, os.strerror(error))
            written = file.write(data[:room])
            room -= written
            return written

        handler = OutputHandler(Output(file.fileno(), write), lambda: None)
        monkeypatch.setattr(log, "handlers", [handler])
        for text in ("one", "seven", "lost", "lost"):
            handler.emit(said(text))
        room = 1000
        handler.emit(said("after"))
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == ["one", "seven", "log_lines_lost lines=2", "after"]


def test_what_has_no_number_is_written_as_ever() -> None:
    """As in a test."""
    stream: TextIO = StringIO()
    assert type(make_handler(stream)) is logging.StreamHandler
