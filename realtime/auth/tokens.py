"""Who is asking: a JSON Web Token becomes an `Identity`, or a refusal with a short public reason.

Called by the sockets and the HTTP endpoints for every token, and by `bin/token`, which makes one.
A token, or any part of one, never appears in an error or in a log line: refusals are raised from
None, because the cause would carry it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

import jwt

from realtime.auth.keys import (
    Fetch,
    KeysUnavailable,
    PublicKey,
    RemoteKeys,
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
    TYPE = "token type refused"
    AUDIENCE = "token audience refused"
    ISSUER = "token issuer refused"
    NO_EXP = "token without exp"
    NO_SUB = "token without sub"
    NO_AUD = "token without aud"
    NO_ISS = "token without iss"


class TokenError(Exception):
    """A token is refused, for this reason."""

    def __init__(self, reason: TokenReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a valid token speaks for; `expires_at` is its `exp`, in seconds since the epoch."""

    subject: str
    expires_at: float
    is_admin: bool


class _Keys(Protocol):
    async def find(self, kid: str | None, algorithm: str) -> PublicKey | bytes | None: ...


@dataclass(frozen=True, slots=True)
class _OneKey:
    """The one key of the settings: whatever `kid` says, no other will do."""

    key: PublicKey | bytes
    algorithms: frozenset[str]

    async def find(self, kid: str | None, algorithm: str) -> PublicKey | bytes | None:
        del kid
        return self.key if algorithm in self.algorithms else None


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
        self._keys = _keys(settings, clock, fetch)

    async def verify(self, token: str, *, leeway: bool = True) -> Identity:
        """Prove who a token speaks for.

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
        if claims.get("type", "access") != "access":
            raise TokenError(TokenReason.TYPE)
        slack = self._settings.jwt_leeway_seconds if leeway else 0.0
        return Identity(
            subject=_subject(claims),
            expires_at=self._check_times(claims, slack),
            is_admin=claims.get(self._settings.jwt_admin_claim) is True,
        )

    async def _proven_claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token whose signature, audience and issuer are right."""
        algorithm, kid = _read_header(token)
        key = await self._keys.find(kid, algorithm)
        if key is None:
            raise TokenError(TokenReason.INVALID)
        try:
            return jwt.decode(
                token,
                key,
                algorithms=self._settings.jwt_algorithms,
                # PyJWT reads the system's clock and takes numbers out of strings: times are ours.
                options={
                    "require": ["exp", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
            )
        except jwt.MissingRequiredClaimError as error:
            raise TokenError(TokenReason(f"token without {error.claim}")) from None
        except jwt.InvalidAudienceError:
            raise TokenError(TokenReason.AUDIENCE) from None
        except jwt.InvalidIssuerError:
            raise TokenError(TokenReason.ISSUER) from None
        except _UNREADABLE:
            raise TokenError(TokenReason.INVALID) from None

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


def _keys(settings: Settings, clock: Callable[[], float], fetch: Fetch) -> _Keys:
    algorithms = frozenset(settings.jwt_algorithms)
    if settings.jwt_secret is not None:
        return _OneKey(settings.jwt_secret.get_secret_value().encode(), algorithms)
    if settings.jwt_public_key is not None:
        key = load_public_key(settings.jwt_public_key)
        return _OneKey(key, algorithms & fitting_algorithms(key))
    assert settings.jwt_jwks_url is not None  # settings hold exactly one of the three
    return RemoteKeys(settings.jwt_jwks_url, algorithms, clock, fetch)


def _read_header(token: str) -> tuple[str, str | None]:
    """Return the algorithm and the key that a token claims to be signed with; neither is proven."""
    if not token:
        raise TokenError(TokenReason.MISSING)
    if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
        raise TokenError(TokenReason.INVALID)
    try:
        header = jwt.get_unverified_header(token)
    except _UNREADABLE:
        raise TokenError(TokenReason.INVALID) from None
    algorithm, kid = header.get("alg"), header.get("kid")
    # RFC 7515, 4.1.11: what is marked critical and not understood makes it invalid. None is here.
    if not isinstance(algorithm, str) or not isinstance(kid, str | None) or "crit" in header:
        raise TokenError(TokenReason.INVALID)
    return algorithm, kid


def _subject(claims: Mapping[str, Any]) -> str:
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject:
        raise TokenError(TokenReason.NO_SUB)
    # PostgreSQL's text holds neither; asking it would be an error rather than a refusal.
    if "\0" in subject or any("\ud800" <= character <= "\udfff" for character in subject):
        raise TokenError(TokenReason.INVALID)
    return subject


def _time(value: object) -> float:
    """Read a NumericDate (RFC 7519, 2)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(TokenReason.INVALID)
    if not 0 <= value <= LATEST_TIME:  # before float(): this keeps out NaN and huge integers
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
