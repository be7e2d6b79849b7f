"""Checks of single settings: each returns the value in its normal form, or raises ValueError.

The error's text starts with "must", because it follows the variable's name. It never repeats the
value, which may be a secret.
"""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, parse_qs, urlencode

import jwt
from pydantic import SecretStr

from realtime.auth.keys import PUBLIC_ALGORITHMS, SECRET_ALGORITHMS, load_public_key
from realtime.config.address import Host, hosts_of, split_address, with_hosts

MIN_SECRET_BYTES: Final = 32
MAX_NAMES, MAX_NAME = 5, 40
"""How many surplus parameters are named, and how much of each."""
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}", re.ASCII)
_SSL_MODES: Final = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
# Any other is sent to the server, which refuses it, or would be a second place for what the address
# has already: user, password, service.
_DATABASE_PARAMETERS: Final = frozenset(
    {
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
        *("host", "port", "target_session_attrs", "application_name"),
    }
)
# A standby cannot be read from, so the others of libpq make no sense.
_SESSION_ATTRIBUTES: Final = frozenset({"any", "primary", "read-write"})
_DATABASE_ADDRESS: Final = (
    "must be an address like postgres://user:password@host:5432/name,"
    " with @ : / ? # in the password written as %40 %3A %2F %3F %23"
)
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>\d{1,5}))?",
    re.ASCII,
)
_DEFAULT_PORTS: Final = frozenset({("http", 80), ("https", 443)})


def check_database_url(given: SecretStr) -> SecretStr:
    """Check an address of PostgreSQL; returns it with the scheme `postgresql`.

    One with several hosts asks for the primary among them, in the form that all drivers know.
    """
    url = given.get_secret_value().strip()
    address = split_address(url)
    if address is not None and address.scheme.startswith(("postgres+", "postgresql+")):
        raise ValueError("must begin with postgresql://, without the name of a driver")
    if address is None or address.scheme not in ("postgres", "postgresql"):
        raise ValueError(_DATABASE_ADDRESS)
    # Each of these is a sign of a character in the password that should have been escaped.
    if address.netloc.count("@") > 1 or "@" in address.path + address.query or "#" in url:
        raise ValueError(_DATABASE_ADDRESS)
    parameters = _check_parameters(address)
    hosts = _hosts_of(address)
    if len(hosts) == 1:
        return SecretStr("postgresql" + url[url.index(":") :])
    query = urlencode({**parameters, "target_session_attrs": "primary"})
    return SecretStr(with_hosts(address._replace(scheme="postgresql", query=query), hosts))


def _check_parameters(address: SplitResult) -> dict[str, str]:
    try:
        given = parse_qs(address.query, strict_parsing=bool(address.query))
    except ValueError:
        raise ValueError("must have parameters like ?sslmode=require after the ?") from None
    if surplus := [name for name in given if name not in _DATABASE_PARAMETERS]:
        known = ", ".join(sorted(_DATABASE_PARAMETERS))
        raise ValueError(
            f"must not have {_named(surplus)}: Rowcast takes no parameters but {known}"
        )
    if not _SSL_MODES.issuperset(given.get("sslmode", ())):
        raise ValueError(f"must have an sslmode out of these: {', '.join(sorted(_SSL_MODES))}")
    if not _SESSION_ATTRIBUTES.issuperset(given.get("target_session_attrs", ())):
        known = ", ".join(sorted(_SESSION_ATTRIBUTES))
        raise ValueError(f"must have a target_session_attrs out of these: {known}")
    if "system" in given.get("sslrootcert", ()):
        raise ValueError("must have a file as its sslrootcert: Rowcast takes no system")
    return {name: values[-1] for name, values in given.items() if name not in ("host", "port")}


def _named(parameters: list[str]) -> str:
    # What follows a password may be a part of it, with a & that is not escaped.
    names = [name for name in parameters if "password" in name] or parameters
    shown = [
        name if _PLAIN_NAME.fullmatch(name) else repr(name[:MAX_NAME]) for name in names[:MAX_NAMES]
    ]
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(shown) + more


def _hosts_of(address: SplitResult) -> list[Host]:
    try:
        return hosts_of(address)
    except ValueError as error:
        # Where a password is taken for a host, the address as a whole is to be looked at.
        is_list = "," in address.netloc + address.query or "host=" in address.query
        raise ValueError(str(error) if is_list else _DATABASE_ADDRESS) from None


def _split_url(url: str) -> SplitResult | None:
    """Take a URL with one host apart; None where it is none."""
    address = split_address(url)
    try:
        _ = address and address.port  # raises where the port is no port
    except ValueError:
        return None
    return address


def check_host(given: str) -> str:
    """Check the address to listen on; a name could lead to another machine."""
    host = given.strip()
    try:
        return host if host == "localhost" else str(ip_address(host))
    except ValueError:
        raise ValueError("must be an IP address of this machine, or localhost") from None


def check_key_set_url(url: str) -> str:
    """Check the address of an issuer's keys: nobody on the way may change them."""
    address = _split_url(url.strip())
    trusted = (
        address
        and address.hostname
        and (
            address.scheme == "https"
            or (address.scheme == "http" and _is_loopback(address.hostname))
        )
    )
    if not address or not trusted or "@" in address.netloc or address.fragment:
        raise ValueError("must be an https:// address (http:// on loopback only), with no password")
    return url.strip()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_secret(given: SecretStr) -> SecretStr:
    """Check a secret that tokens are signed with: its length, and that it is no public key."""
    try:
        secret = given.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8 text") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"must be at least {MIN_SECRET_BYTES} bytes long: openssl rand -hex 32")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError("must be a secret; a public key goes into JWT_PUBLIC_KEY") from None
    return given


def check_public_key(pem: str) -> str:
    """Check a public key in PEM; returns it with real line breaks."""
    # Hosts that keep one line per variable have the line breaks written out.
    unfolded = pem.replace("\\n", "\n").strip() + "\n"
    load_public_key(unfolded)
    return unfolded


def check_algorithms(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check names of signature algorithms; returns each of them once."""
    known = PUBLIC_ALGORITHMS | set(SECRET_ALGORITHMS)
    if not names or not known.issuperset(names):
        raise ValueError(f"must list some of {', '.join(sorted(known))}, with commas; never none")
    return tuple(dict.fromkeys(names))


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Check web origins; returns them as browsers write them, each once."""
    if not origins:
        raise ValueError("must name an origin, or be left unset to allow any")
    return tuple(dict.fromkeys(_origin(origin) for origin in origins))


def _origin(text: str) -> str:
    """Write an origin as browsers do: lower case, no default port."""
    found = _ORIGIN.fullmatch(text.lower())
    port = int(found["port"]) if found and found["port"] else None
    if not found or (port is not None and not 0 < port <= 65535):
        raise ValueError("must be like https://a.example,http://localhost:3000 (no path, no *)")
    suffix = "" if port is None or (found["scheme"], port) in _DEFAULT_PORTS else f":{port}"
    return f"{found['scheme']}://{found['host']}{suffix}"


def check_base_path(path: str) -> str:
    """Check the path that all addresses lie under; returns it without the slash at its end."""
    bare = path.rstrip("/")
    if not re.fullmatch(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", bare, re.ASCII):
        raise ValueError("must be a path like /realtime, of letters, digits and . _ ~ -")
    return bare


def check_header_token(given: SecretStr) -> SecretStr:
    """Check a token that is sent in an HTTP header."""
    if not re.fullmatch(r"[!-~]+", given.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces, for it is sent in a header")
    return given


def split_list(value: object) -> object:
    """Split a text at its commas; any other value is returned as it is."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())
