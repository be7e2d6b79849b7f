"""An address of PostgreSQL that names one host or several, as libpq and SQLAlchemy write them.

postgres://user:password@one:5432,two:5433/name
postgres://user:password@/name?host=one,two&port=5432,5433
postgres://user:password@/name?host=one:5432&host=two:5433
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

DEFAULT_PORT: Final = 5432
_HOST: Final = re.compile(
    r"(?P<host>\[[^\[\]]+\]|/.*|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)
_MAX_PORT: Final = 65535


class Host(NamedTuple):
    """One of the servers that an address names."""

    name: str
    """A name, an IP address, or the directory of a socket."""
    port: int


def split_address(url: str) -> SplitResult | None:
    """Take a URL apart; None where it is none, for `urlsplit`'s own errors repeat their input."""
    if not url.isprintable() or " " in url:
        return None
    try:
        return urlsplit(url)
    except ValueError:
        return None


def hosts_of(address: SplitResult) -> list[Host]:
    """The servers that an address names, in its order.

    Raises:
        ValueError: there is none, or a port is none.
    """
    query = parse_qs(address.query)
    before_path = address.netloc.rpartition("@")[2]
    listed = before_path.split(",") if before_path else []
    asked = [one for value in query.get("host", ()) for one in value.split(",")]
    if listed and asked:
        raise ValueError("must name hosts before the / or after ?host=, not both")
    found = [_HOST.fullmatch(one) for one in listed or asked]
    ports = [one for value in query.get("port", ()) for one in value.split(",")]
    if not found or not all(found) or len(ports) not in (0, 1, len(found)):
        raise ValueError("must name hosts like one:5432,two:5432, with a port for each, or none")
    shared = ports * len(found) if len(ports) == 1 else ports or [""] * len(found)
    # Before the path, the directory of a socket is written as %2Frun, and may have a port after it.
    name_of = unquote if listed else str
    return [
        Host(name_of(match["host"]).strip("[]"), _port(match["port"] or port))
        for match, port in zip(found, shared, strict=True)
        if match
    ]


def _port(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and 0 < int(text) <= _MAX_PORT):
        raise ValueError("must have ports from 1 to 65535")
    return int(text or DEFAULT_PORT)


def with_hosts(address: SplitResult, hosts: list[Host]) -> str:
    """The address with other hosts, in the one form that every driver understands."""
    # Of what is given twice, drivers take the last.
    query = {name: values[-1] for name, values in parse_qs(address.query).items()}
    names = (f"[{one.name}]" if ":" in one.name else one.name for one in hosts)
    query["host"] = ",".join(names)
    query["port"] = ",".join(str(one.port) for one in hosts)
    user = address.netloc.rpartition("@")[0]
    return address._replace(
        netloc=f"{user}@" if user else "", query=urlencode(query, quote_via=quote, safe=",/")
    ).geturl()
