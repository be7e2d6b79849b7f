"""Tests of `realtime.runtime.listening`: which addresses a process listens on."""

from __future__ import annotations

import pytest

from realtime.runtime.listening import bind


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (None, {"0.0.0.0", "::"}),
        ("localhost", {"127.0.0.1", "::1"}),
        ("127.0.0.1", {"127.0.0.1"}),
    ],
)
def test_the_addresses_that_are_listened_on(host: str | None, expected: set[str]) -> None:
    """All of this machine's unless one is named; a machine may have no IPv6. All share one port."""
    sockets = bind(host, 0)
    try:
        names = [one.getsockname() for one in sockets]
    finally:
        for one in sockets:
            one.close()
    assert names
    assert {name[0] for name in names} <= expected
    assert len({name[1] for name in names}) == 1
