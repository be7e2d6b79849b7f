"""The public keys that tokens are verified with: from a PEM, or from the issuer's key set (JWKS).

`settings` checks a PEM with it before anything starts; `auth` asks it for the key of each token.
A key only ever serves the algorithms that fit it, so that no token can choose how a key is used.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest
from tornado.httputil import split_host_and_port
from tornado.simple_httpclient import HTTPStreamClosedError

from realtime.addresses import addresses_of, first_of
from realtime.log_line import LogLine

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]

# RFC 7518, 3.2: "A key of the same size as the hash output … or larger MUST be used."
SECRET_ALGORITHMS: Final[Mapping[str, int]] = MappingProxyType(
    {"HS256": 32, "HS384": 48, "HS512": 64}
)
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVE_ALGORITHMS: Final[Mapping[str, str]] = MappingProxyType(
    {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
)
# RFC 9864: "EdDSA" is the old name for either, and the new names say which curve it is.
_EDWARDS_ALGORITHMS: Final = frozenset({"EdDSA", "Ed25519", "Ed448"})
PUBLIC_ALGORITHMS: Final = _RSA_ALGORITHMS | set(_CURVE_ALGORITHMS.values()) | _EDWARDS_ALGORITHMS
_LEAST_RSA_BITS: Final = 2048  # RFC 7518, 3.3

FRESH_SECONDS: Final = 300.0
# An issuer that is away for longer than this issues no tokens either; and a key that it withdrew
# must not be good for ever because nobody can ask.
STALE_SECONDS: Final = 3600.0
# Anybody can send a token that names an unknown key: that must not become a flood at the issuer.
REFETCH_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 10.0
FETCH_SECONDS: Final = 5.0
LATE_SECONDS: Final = 0.5
TORNADOS_OWN_CODE: Final = 599  # nobody has answered
MAX_KEY_SET_BYTES: Final = 262_144
# Anybody can send a token without `kid`, and each key that is tried costs a verification.
MAX_KEYS_TRIED: Final = 8
# Anybody can make up ids without end. Of those that are forgotten it is not known that they are
# not there: their tokens are to come again.
MAX_ASKED: Final = 1000

log = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """The token's key cannot be had now: says nothing about the token, so: try again later."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One public key of an issuer, and the algorithms that it may be used with."""

    kid: str | None
    key: PublicKey
    algorithms: frozenset[str]


def load_public_key(pem: str) -> PublicKey:
    """Read a PEM public key.

    Raises:
        ValueError: it is not one that any supported algorithm can use; the text says what to do
            and holds nothing of the key.
    """
    if "PRIVATE KEY" in pem:
        raise ValueError("must be the public key, not the private one")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("must be a public key in PEM form, -----BEGIN PUBLIC KEY-----…") from None
    if not fitting_algorithms(key):
        raise ValueError("must be an RSA key of at least 2048 bits, an EC key or an EdDSA key")
    return cast(PublicKey, key)


def fitting_algorithms(key: object) -> frozenset[str]:
    """Name the algorithms that a key can be used with; none for a weak or unknown kind of key."""
    match key:
        case RSAPublicKey(key_size=bits) if bits >= _LEAST_RSA_BITS:
            return _RSA_ALGORITHMS
        case EllipticCurvePublicKey(curve=curve) if curve.name in _CURVE_ALGORITHMS:
            return frozenset({_CURVE_ALGORITHMS[curve.name]})
        case Ed25519PublicKey():
            return frozenset({"EdDSA", "Ed25519"})
        case Ed448PublicKey():
            return frozenset({"EdDSA", "Ed448"})
        case _:
            return frozenset()


def accepted_algorithms(chosen: Collection[str]) -> frozenset[str]:
    """List the names that a token's `alg` may have: EdDSA stands for its newer names, too."""
    return frozenset(chosen) | (_EDWARDS_ALGORITHMS if "EdDSA" in chosen else frozenset())


def parse_key_set(body: bytes, allowed: Collection[str]) -> tuple[SigningKey, ...]:
    """Read a JWK set (RFC 7517, 5), leaving out every key that is not for the allowed algorithms.

    Raises:
        ValueError: it is not a JWK set, or no key in it is of use.
    """
    document = json.loads(body)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWK set")
    read = (_signing_key(entry, frozenset(allowed)) for entry in entries)
    keys = tuple(key for key in read if key is not None)
    if not keys:
        raise ValueError("no key in the set is for the allowed algorithms")
    return keys


def _signing_key(entry: object, allowed: frozenset[str]) -> SigningKey | None:
    if not isinstance(entry, dict):
        return None
    # Issuers that write members without a value as null mean that they are not there.
    members = {name: value for name, value in entry.items() if value is not None}
    if not _for_verifying(members):
        return None
    try:
        key = _public_key(members)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None  # RFC 7517, 5: ignore keys that are not understood
    algorithms = fitting_algorithms(key) & allowed & _own_algorithms(members)
    kid = members.get("kid")
    if not algorithms or not isinstance(kid, str | None):
        return None
    return SigningKey(kid, cast(PublicKey, key), algorithms)


def _own_algorithms(members: Mapping[str, Any]) -> frozenset[str]:
    """The algorithms that a published key is meant for, as far as its `alg` says it."""
    if "alg" not in members:
        return PUBLIC_ALGORITHMS
    name = str(members["alg"])
    # The key itself says which curve it is on, so its old and its new name mean the same.
    return _EDWARDS_ALGORITHMS if name in _EDWARDS_ALGORITHMS else frozenset({name})


def _for_verifying(entry: Mapping[str, Any]) -> bool:
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and (
        isinstance(operations, list) and "verify" in operations
    )


def _public_key(entry: dict[str, Any]) -> object:
    match entry.get("kty"):
        case "RSA":
            return RSAAlgorithm.from_jwk(entry)
        case "EC":
            return ECAlgorithm.from_jwk(entry)
        case "OKP":
            return OKPAlgorithm.from_jwk(entry)
        case _:  # above all "oct": a secret that was published is not one
            return None


async def fetch_key_set(url: str) -> bytes:
    """Get the key set over HTTP: bounded in time and in bytes, and never led elsewhere."""
    parts = urlsplit(url)
    name, port = split_host_and_port(parts.netloc.rpartition("@")[2])
    name = name.strip("[]")
    addresses = await addresses_of(name, port or (443 if parts.scheme == "https" else 80))
    return await first_of(
        [partial(_fetch_from, url, name, one) for one in addresses],
        usefulness=lambda error: isinstance(error, HTTPError) and error.code < TORNADOS_OWN_CODE,
    )


async def _fetch_from(url: str, name: str, address: str) -> bytes:
    """Get the key set from one address of the name that the URL has."""
    client = AsyncHTTPClient(
        force_instance=True,
        max_body_size=MAX_KEY_SET_BYTES,
        hostname_mapping={name: address},
    )
    request = HTTPRequest(
        url,
        connect_timeout=FETCH_SECONDS / 2,
        request_timeout=FETCH_SECONDS,
        follow_redirects=False,
        decompress_response=False,  # or a small answer could unpack to a large one
        headers={"Accept": "application/json"},
    )
    # Who waits no longer leaves it to its own limits: Tornado logs as an error what fails after it
    # was cancelled.
    answer = client.fetch(request)
    answer.add_done_callback(partial(_end, client))
    try:
        return (await asyncio.shield(answer)).body
    except HTTPStreamClosedError as error:  # Tornado says no more of an answer that is too large
        raise ConnectionError(
            f"the connection was closed, or the answer has more than {MAX_KEY_SET_BYTES:,} bytes"
        ) from error


def _end(client: AsyncHTTPClient, answer: asyncio.Future[Any]) -> None:
    client.close()
    if not answer.cancelled():
        answer.exception()  # nobody may wait for it; asyncio is told that it was looked at


class RemoteKeys:
    """An issuer's key set, kept for a while and fetched again when it is old or lacks a key.

    All callers share one fetch. While the issuer is away, its last keys stay valid for a limited
    time. A key that is not among them may be good or not: then `KeysUnavailable` is raised, until a
    fetch that began after the key was asked for has said that it is not there. Else anybody could
    make up an id just before a key is published, and have its tokens refused for good.
    """

    def __init__(
        self,
        url: str,
        algorithms: Collection[str],
        clock: Callable[[], float],
        fetch: Fetch = fetch_key_set,
        *,
        timeout: float = FETCH_SECONDS,
        late: float = LATE_SECONDS,
    ) -> None:
        self._timeout = timeout
        self._late = late
        self._url = url
        self._algorithms = frozenset(algorithms)
        self._clock = clock
        self._fetch = fetch
        self._keys: tuple[SigningKey, ...] = ()
        self._fetched_at = self._tried_at = float("-inf")
        self._pause = 0.0
        self._failed = False
        self._asked: dict[str | None, None] = {}
        """The ids that were asked for since the latest fetch began, the newest last."""
        self._answered: dict[str | None, None] = {}
        """Those that were asked for before it: if it did not find them, they are not there."""
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> tuple[PublicKey, ...]:
        """Find the keys that a token may be signed with; empty when the issuer has no such key.

        They are the keys with the token's `kid`, or all if it names none (RFC 7515, 4.1.4: it is
        optional). Each comes once, and there are at most `MAX_KEYS_TRIED`.

        Cancelling a caller does not cancel the fetch that others may be waiting for.

        Raises:
            KeysUnavailable: the issuer cannot be asked now, and what is known does not answer.
        """
        if algorithm not in self._algorithms:
            return ()
        found = self._known(kid, algorithm)
        if found and 0 <= self._clock() - self._fetched_at <= FRESH_SECONDS:
            return found
        self._remember(kid)
        # An issuer that hangs holds up nobody for long whose key is known.
        await self._refresh(self._late if found else None)
        found = self._known(kid, algorithm)
        if not found and not self._is_answered(kid):
            await self._refresh()
            found = self._known(kid, algorithm)
        if not found and not self._is_answered(kid):
            raise KeysUnavailable("the token issuer's keys cannot be fetched at the moment")
        return found

    def _remember(self, kid: str | None) -> None:
        self._asked.pop(kid, None)
        self._asked[kid] = None
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]

    def _is_answered(self, kid: str | None) -> bool:
        """Whether the latest fetch has said all that there is of an id."""
        is_found = any(known.kid == kid for known in self._keys)
        return not self._failed and (is_found or kid in self._answered)

    def _known(self, kid: str | None, algorithm: str) -> tuple[PublicKey, ...]:
        # The upper bound for both: a clock that was set back must not make a key good for ever.
        if abs(self._clock() - self._fetched_at) > STALE_SECONDS:
            return ()
        found: list[PublicKey] = []
        for known in self._keys:
            fits = algorithm in known.algorithms and kid in (None, known.kid)
            if fits and known.key not in found:
                found.append(known.key)
            if len(found) == MAX_KEYS_TRIED:
                break
        return tuple(found)

    async def _refresh(self, seconds: float | None = None) -> None:
        """Fetch the keys, or wait for who does already.

        Args:
            seconds: the most to wait; the fetch goes on. None: until it is over.
        """
        if self._fetching is None:
            # The lower bound is for a clock that was set back: then try, rather than wait for it.
            if 0 <= self._clock() - self._tried_at < self._pause:
                return
            self._fetching = asyncio.create_task(self._fetch_keys())
        await asyncio.wait({self._fetching}, timeout=seconds)

    async def _fetch_keys(self) -> None:
        asked, self._asked = self._asked, {}
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._fetch(self._url)
            self._keys = parse_key_set(body, self._algorithms)
        except Exception as error:  # noqa: BLE001 - another's server can fail in any way there is
            self._failed, self._pause = True, RETRY_SECONDS
            log.warning(LogLine("key_fetch_failed", error=error))
        else:
            self._failed, self._pause = False, REFETCH_SECONDS
            self._answered = asked
            self._fetched_at = self._clock()
        finally:
            self._tried_at = self._clock()
            self._fetching = None
