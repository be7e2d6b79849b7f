"""Who is asking: a JSON Web Token becomes an `Identity`, or a refusal with a short public reason.

A token, or any part of one, never appears in an error or in a log line: refusals are raised from
None, because the cause would carry it.
"""

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, NoReturn, Protocol

import jwt
from jwt.algorithms import OKPAlgorithm

from realtime.auth.keys import (
    Fetch,
    KeysUnavailable,
    PublicKey,
    RemoteKeys,
    accepted_algorithms,
    fetch_key_set,
    fitting_algorithms,
    load_public_key,
)
from realtime.config.settings import Settings

__all__ = [
    "Identity",
    "KeysUnavailable",
    "TokenError",
    "TokenVerifier",
    "mint_token",
    "token_from_request",
]

MAX_TOKEN_CHARACTERS: Final = 8192
LATEST_TIME: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second that a datetime holds

# RFC 7515, 2 and 7.1: three parts, "with all trailing '=' characters omitted […] and without the
# inclusion of any line breaks, whitespace, or other additional characters".
_COMPACT: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
# PostgreSQL's text holds none of these; asking it would be an error rather than a refusal.
_NO_TEXT: Final = re.compile("[\0\ud800-\udfff]")
# Beside its own errors PyJWT lets through what its parsers raise: on deep nesting, for example.
_UNREADABLE: Final = (jwt.PyJWTError, ValueError, TypeError, RecursionError)


class TokenReason(StrEnum):
    """Why a token is refused; docs/protocol.md lists these as reasons of 4001.

    May be shown to anyone: they say nothing of what is in the token. Until the signature is proven,
    the reason is never more than that the token is missing or invalid.
    """

    MISSING = "token missing"
    INVALID = "token invalid"
    EXPIRED = "token expired"
    NOT_YET = "token not valid yet"
    NOT_IN_SECONDS = "token times not in seconds"
    TYPE = "token type refused"
    AUDIENCE = "token audience refused"
    ISSUER = "token issuer refused"
    NO_EXP = "token without exp"
    NO_SUB = "token without sub"
    NO_AUD = "token without aud"
    NO_ISS = "token without iss"


class TokenError(Exception):
    """A token is refused. `reason` says why."""

    def __init__(self, reason: TokenReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner of a valid token; `expires_at` is its `exp`, in seconds since the epoch."""

    subject: str
    expires_at: float
    is_admin: bool


class _Keys(Protocol):
    async def find(self, kid: str | None, algorithm: str) -> Sequence[PublicKey | bytes]: ...


@dataclass(frozen=True, slots=True)
class _OneKey:
    """The one key of the settings. It is used for every `kid`."""

    key: PublicKey | bytes
    algorithms: frozenset[str]

    async def find(self, kid: str | None, algorithm: str) -> Sequence[PublicKey | bytes]:
        del kid
        return (self.key,) if algorithm in self.algorithms else ()


class TokenVerifier:
    """Verifies tokens as the settings say.

    Args:
        settings: the keys, algorithms and claims that are accepted.
        clock: seconds since the epoch.
        fetch: how to get the issuer's key set, where it is published at `JWT_JWKS_URL`.
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], float], *, fetch: Fetch = fetch_key_set
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._algorithms = accepted_algorithms(settings.jwt_algorithms)
        self._signatures = _signatures()
        self._keys = _keys(settings, self._algorithms, clock, fetch)

    async def verify(self, token: str, *, leeway: bool = True) -> Identity:
        """Verify a token and say whose it is.

        An `aud` is checked both ways (RFC 7519, 4.1.3): where `JWT_AUDIENCE` is set the token must
        name it, and where it is not, a token that names an audience is meant for someone else. An
        `iat` in the future is no ground for refusal (4.1.6 gives it no such meaning; `nbf` has it).

        Args:
            token: from the request, unchecked.
            leeway: grant the issuer's clock `JWT_LEEWAY_SECONDS`: at the handshake.

        Raises:
            TokenError: it is refused. Whatever the token, nothing else is raised but
            KeysUnavailable: the issuer's keys cannot be had; the token may be good.
        """
        claims = await self._proven_claims(token)
        for name, reason in (("exp", TokenReason.NO_EXP), ("sub", TokenReason.NO_SUB)):
            if claims.get(name) is None:
                raise TokenError(reason)
        self._check_issuer(claims)
        self._check_audience(claims)
        if claims.get("type", "access") != "access":
            raise TokenError(TokenReason.TYPE)
        slack = self._settings.jwt_leeway_seconds if leeway else 0.0
        return Identity(
            subject=_subject(claims),
            expires_at=self._check_times(claims, slack),
            is_admin=claims.get(self._settings.jwt_admin_claim) is True,
        )

    async def _proven_claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token whose signature is right; nothing else of it is checked."""
        read = _read_token(token)
        try:
            for key in await self._keys.find(read.kid, read.algorithm):
                if self._is_signed(read, key):
                    return _read_object(read.payload)
        except _UNREADABLE:
            pass
        raise TokenError(TokenReason.INVALID)

    def _is_signed(self, token: "_Token", key: PublicKey | bytes) -> bool:
        if token.algorithm not in self._algorithms:
            return False
        scheme = self._signatures.get_algorithm_by_name(token.algorithm)
        # The settings have checked a secret; to do it for each token costs more than all the rest.
        prepared = key if isinstance(key, bytes) else scheme.prepare_key(key)
        return scheme.verify(token.signed, prepared, token.signature)

    def _check_issuer(self, claims: Mapping[str, Any]) -> None:
        if self._settings.jwt_issuer is None:
            return
        if "iss" not in claims:
            raise TokenError(TokenReason.NO_ISS)
        if claims["iss"] != self._settings.jwt_issuer:
            raise TokenError(TokenReason.ISSUER)

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        ours = self._settings.jwt_audience
        if "aud" not in claims:
            if ours is not None:
                raise TokenError(TokenReason.NO_AUD)
            return
        named = [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"]
        # An empty list names nobody, so it does not name us either.
        is_list = isinstance(named, list) and all(isinstance(name, str) for name in named)
        if not is_list or ours not in named:
            raise TokenError(TokenReason.AUDIENCE)

    def _check_times(self, claims: Mapping[str, Any], slack: float) -> float:
        now = self._clock()
        expires_at = _time(claims["exp"])
        # RFC 7519, 4.1.4: "on or after which the JWT MUST NOT be accepted"
        if expires_at <= now - slack:
            raise TokenError(TokenReason.EXPIRED)
        if "nbf" in claims and _time(claims["nbf"]) > now + slack:
            raise TokenError(TokenReason.NOT_YET)
        if "iat" in claims:
            _time(claims["iat"])
        return expires_at


def _signatures() -> jwt.PyJWS:
    """Verify signatures only: the claims of a token are read and checked here."""
    signatures = jwt.PyJWS()
    for name in {"Ed25519", "Ed448"}.difference(signatures.get_algorithms()):
        signatures.register_algorithm(name, OKPAlgorithm())
    return signatures


def _keys(
    settings: Settings, algorithms: frozenset[str], clock: Callable[[], float], fetch: Fetch
) -> _Keys:
    if settings.jwt_secret is not None:
        return _OneKey(settings.jwt_secret.get_secret_value().encode(), algorithms)
    if settings.jwt_public_key is not None:
        key = load_public_key(settings.jwt_public_key)
        return _OneKey(key, algorithms & fitting_algorithms(key))
    assert settings.jwt_jwks_url is not None  # settings hold exactly one of the three
    return RemoteKeys(settings.jwt_jwks_url, algorithms, clock, fetch)


class _Token(NamedTuple):
    """A token whose form is right; nothing of it is proven."""

    algorithm: str
    kid: str | None
    payload: bytes
    signed: bytes
    """What the signature is of."""
    signature: bytes


def _read_token(token: str) -> _Token:
    if not token:
        raise TokenError(TokenReason.MISSING)
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenError(TokenReason.INVALID)
    try:
        protected, payload, signature = _read_parts(token)
        header = _read_object(protected)
    except _UNREADABLE:
        raise TokenError(TokenReason.INVALID) from None
    algorithm, kid = header.get("alg"), header.get("kid")
    # RFC 7515, 4.1.11: what is marked critical and not understood makes it invalid. None is here,
    # nor is a payload that is not in base64 (RFC 7797, which must be marked so).
    is_plain = "crit" not in header and header.get("b64", True) is not False
    if not isinstance(algorithm, str) or not isinstance(kid, str | None) or not is_plain:
        raise TokenError(TokenReason.INVALID)
    return _Token(algorithm, kid, payload, token.rpartition(".")[0].encode(), signature)


def _read_parts(token: str) -> list[bytes]:
    """Decode the three parts of a token. There is one way to write each: no other is read.

    Raises:
        ValueError: it is no token.
    """
    if not _COMPACT.fullmatch(token):
        raise ValueError("not three parts")
    parts = token.split(".")
    decoded = [urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts]
    if [urlsafe_b64encode(part).rstrip(b"=").decode() for part in decoded] != parts:
        raise ValueError("not the canonical base64url")
    return decoded


def _read_object(text: bytes) -> dict[str, Any]:
    """Read a JSON object whose names are unique (RFC 7515, 4; RFC 7519, 4).

    Raises:
        ValueError, RecursionError: it is none.
    """
    found = _DECODER.decode(text.decode())
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _subject(claims: Mapping[str, Any]) -> str:
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject:
        raise TokenError(TokenReason.NO_SUB)
    if _NO_TEXT.search(subject):
        raise TokenError(TokenReason.INVALID)
    return subject


def _time(value: object) -> float:
    """Read a claim that is a time: a NumericDate of RFC 7519, section 2."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(TokenReason.INVALID)
    if value > LATEST_TIME:  # before float(): this keeps out huge integers
        raise TokenError(TokenReason.NOT_IN_SECONDS)
    if not value >= 0:  # NaN, too
        raise TokenError(TokenReason.INVALID)
    return float(value)


def token_from_request(
    query_token: str | None, authorization: str | None, subprotocols: Sequence[str]
) -> str | None:
    """Find the token: `?token=`, `Authorization: Bearer …`, subprotocols `bearer, <token>`.

    Args:
        query_token: the query parameter `token`.
        authorization: the header of that name.
        subprotocols: what the client offers in `Sec-WebSocket-Protocol`, in its order.
    """
    if query_token:
        return query_token
    scheme, _, credentials = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    offered = list(subprotocols)
    if "bearer" not in offered[:-1]:
        return None
    return offered[offered.index("bearer") + 1]


def mint_token(
    secret: str,
    subject: str,
    *,
    ttl: float,
    now: float,
    is_admin: bool = False,
    admin_claim: str = "admin",
    audience: str | None = None,
    issuer: str | None = None,
    algorithm: str = "HS256",
) -> str:
    """Sign an access token for `subject` that is good for `ttl` seconds from `now`."""
    claims: dict[str, Any] = {
        "sub": subject,
        "iat": math.floor(now),
        "exp": now + ttl,
        "type": "access",
    }
    if is_admin:
        claims[admin_claim] = True
    if audience is not None:
        claims["aud"] = audience
    if issuer is not None:
        claims["iss"] = issuer
    return jwt.encode(claims, secret, algorithm=algorithm)
