"""A name that has the addresses which a test gives it."""

from __future__ import annotations

import socket
from typing import Any

import pytest

NAME = "several.test"


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let `NAME` have these addresses, in this order."""
    known = socket.getaddrinfo

    def found(host: Any, *asked: Any, **more: Any) -> Any:
        hosts = addresses if host == NAME else (host,)
        return [place for one in hosts for place in known(one, *asked, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", found)
