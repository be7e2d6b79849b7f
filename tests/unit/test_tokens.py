"""Tests of `realtime.auth.tokens`: the claims of real tokens, and where a token is found.

Who may sign: `test_tokens_signatures`. Anything at all: `test_tokens_properties`.
"""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Coroutine, Mapping

import jwt
import pytest

from realtime.auth.tokens import (
    LATEST_TIME,
    MAX_TOKEN_CHARACTERS,
    Identity,
    TokenError,
    TokenVerifier,
    mint_token,
    token_from_request,
)
from realtime.config.settings import Settings

NOW = 1_700_000_000.0
SECRET = "a secret of more than thirty-two bytes"
SUBJECT = "6b0f5a0e-9d0b-4a55-8a5e-0a6b7c1e2f33"
GOOD = {"sub": SUBJECT, "exp": NOW + 60}
ENVIRON = {"JWT_SECRET": SECRET}
JWKS = {"JWT_JWKS_URL": "https://issuer.example/keys"}


def verifier(environ: Mapping[str, str] = ENVIRON, body: bytes | Exception = b"") -> TokenVerifier:
    """Make a verifier from an environment, and with what the key set's address answers."""

    async def fetch(url: str) -> bytes:
        assert url == JWKS["JWT_JWKS_URL"]
        if isinstance(body, Exception):
            raise body
        return body

    settings = Settings.from_environ({"DATABASE_URL": "postgres://host/name"} | dict(environ))
    return TokenVerifier(settings, lambda: NOW, fetch=fetch)


def run(verification: Coroutine[None, None, Identity]) -> Identity:
    # Not asyncio.run, which would drop the loop that pytest-tornado's fixtures left current.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(verification)


def verify(token: str, environ: Mapping[str, str] = ENVIRON, *, leeway: bool = True) -> Identity:
    return run(verifier(environ).verify(token, leeway=leeway))


def refusal(token: str, environ: Mapping[str, str] = ENVIRON, *, leeway: bool = True) -> str:
    """Return the reason that a token is refused with; the error must not lead to the token."""
    with pytest.raises(TokenError) as caught:
        verify(token, environ, leeway=leeway)
    assert caught.value.reason == str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value.reason


def signed(**claims: object) -> str:
    """Sign what a minimal good token holds, with these claims changed; None takes one out."""
    merged = {name: value for name, value in (GOOD | claims).items() if value is not None}
    return by_hand({"alg": "HS256", "typ": "JWT"}, merged)


def by_hand(header: object, claims: object, secret: str = SECRET) -> str:
    """Sign anything at all with HS256; PyJWT would refuse some of it."""
    return by_bytes(json.dumps(header).encode(), json.dumps(claims).encode(), secret)


def by_bytes(header: bytes, claims: bytes, secret: str = SECRET) -> str:
    """Sign even what is no JSON with HS256."""
    signing_input = b".".join(encoded(part) for part in (header, claims))
    signature = hmac.digest(secret.encode(), signing_input, hashlib.sha256)
    return b".".join((signing_input, encoded(signature))).decode()


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def test_good_token() -> None:
    """A token of the bare minimum is an identity, and no administrator."""
    assert verify(signed()) == Identity(SUBJECT, NOW + 60, is_admin=False)
    assert (
        verify(signed(type="access", iat=NOW, nbf=NOW, jti=7, more={"a": [1]})).subject == SUBJECT
    )


@pytest.mark.parametrize("value", [1, "true", [True], {"admin": True}, False, None])
def test_only_true_makes_an_administrator(value: object) -> None:
    """The claim is JSON true, or it is nothing."""
    assert not verify(signed(admin=value)).is_admin
    assert verify(signed(admin=True)).is_admin
    assert not verify(signed(admin=True), ENVIRON | {"JWT_ADMIN_CLAIM": "is_operator"}).is_admin
    assert verify(signed(is_operator=True), ENVIRON | {"JWT_ADMIN_CLAIM": "is_operator"}).is_admin


def test_expiry() -> None:
    """A token ends at its exp, on the injected clock; the handshake alone grants some seconds."""
    assert verify(signed(exp=NOW + 0.5), leeway=False).expires_at == NOW + 0.5
    assert refusal(signed(exp=NOW), leeway=False) == "token expired"
    assert verify(signed(exp=NOW - 4.5)).expires_at == NOW - 4.5
    assert refusal(signed(exp=NOW - 5)) == "token expired"
    assert refusal(signed(exp=NOW - 4), ENVIRON | {"JWT_LEEWAY_SECONDS": "0"}) == "token expired"
    assert refusal(signed(exp=0)) == "token expired"
    assert verify(signed(exp=LATEST_TIME)).expires_at == LATEST_TIME


def test_not_before() -> None:
    """A token starts at its nbf; iat says only how old it is."""
    assert verify(signed(nbf=NOW + 5)).subject == SUBJECT
    assert refusal(signed(nbf=NOW + 5.5)) == "token not valid yet"
    assert refusal(signed(nbf=NOW + 1), leeway=False) == "token not valid yet"
    assert verify(signed(iat=NOW + 3600), leeway=False).subject == SUBJECT


NO_TIMES = [
    str(NOW + 60),
    True,
    [NOW],
    {},
    -1,
    float("nan"),
    float("inf"),
    float("-inf"),
]


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", NO_TIMES)
def test_times_that_are_none(claim: str, value: object) -> None:
    """A time is a number, and one that a date can be made of."""
    assert refusal(signed(**{claim: value})) == "token invalid"


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [LATEST_TIME + 1, NOW * 1000, 1e300, 10**400])
def test_times_in_milliseconds_are_told_apart(claim: str, value: float) -> None:
    """Programs that reckon in milliseconds write these, and the reason says what to do."""
    assert refusal(signed(**{claim: value})) == "token times not in seconds"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": None}, "token without exp"),
        ({"sub": None}, "token without sub"),
        ({"sub": ""}, "token without sub"),
        ({"sub": 7}, "token without sub"),
        ({"sub": [SUBJECT]}, "token without sub"),
        ({"sub": "nul\0"}, "token invalid"),
        ({"sub": "\ud800"}, "token invalid"),
        ({"type": "refresh"}, "token type refused"),
        ({"type": 1}, "token type refused"),
        ({"type": ["access"]}, "token type refused"),
    ],
)
def test_claims_that_are_refused(claims: dict[str, object], reason: str) -> None:
    """What a token must hold, and a refresh token must not open a socket."""
    assert refusal(signed(**claims)) == reason


def test_null_claims() -> None:
    """A claim that is null is there, and wrong."""
    header = {"alg": "HS256"}
    assert refusal(by_hand(header, GOOD | {"type": None})) == "token type refused"
    assert refusal(by_hand(header, GOOD | {"nbf": None})) == "token invalid"
    assert refusal(by_hand(header, GOOD | {"exp": None})) == "token without exp"


def test_audience() -> None:
    """An audience is checked both ways (RFC 7519, 4.1.3)."""
    ours = ENVIRON | {"JWT_AUDIENCE": "ours"}
    assert verify(signed(aud="ours"), ours).subject == SUBJECT
    assert verify(signed(aud=["theirs", "ours"]), ours).subject == SUBJECT
    assert refusal(signed(), ours) == "token without aud"
    for other in ("theirs", "", ["theirs"], {"ours": 1}, ["ours", 1], [["ours"]], 1, 0, {}):
        assert refusal(signed(aud=other), ours) == "token audience refused"
        assert refusal(signed(aud=other)) == "token audience refused"


@pytest.mark.parametrize("environ", [ENVIRON, ENVIRON | {"JWT_AUDIENCE": "ours"}])
@pytest.mark.parametrize("audience", [[], None])
def test_audience_of_nobody(audience: object, environ: dict[str, str]) -> None:
    """A token that is meant for nobody is not meant for us, with JWT_AUDIENCE and without."""
    token = by_hand({"alg": "HS256"}, GOOD | {"aud": audience})
    assert refusal(token, environ) == "token audience refused"


def test_issuer() -> None:
    """An issuer is checked where one is configured."""
    ours = ENVIRON | {"JWT_ISSUER": "https://issuer.example"}
    assert verify(signed(iss="https://issuer.example"), ours).subject == SUBJECT
    assert verify(signed(iss="https://other.example")).subject == SUBJECT
    assert refusal(signed(), ours) == "token without iss"
    for other in ("https://issuer.example/", ["https://issuer.example"], 1):
        assert refusal(signed(iss=other), ours) == "token issuer refused"


def test_tokens_that_are_none() -> None:
    """What is no token is refused without being read, and the empty one is missing."""
    assert refusal("") == "token missing"
    long = by_hand({"alg": "HS256"}, GOOD | {"padding": "x" * MAX_TOKEN_CHARACTERS})
    assert len(long) > MAX_TOKEN_CHARACTERS
    deep = encoded(b"[" * 5000).decode()
    for token in ("a", "..", "a.b.c", "é.é.é", "\ud800", long, f"{deep}.{deep}.", signed() + "\n"):
        assert refusal(token) == "token invalid"


def test_how_long_a_token_may_be() -> None:
    """The limit included."""
    least = len(by_hand({"alg": "HS256", "typ": ""}, GOOD | {"padding": ""}))
    about = (MAX_TOKEN_CHARACTERS - least) * 3 // 4
    tokens = {
        len(token): token
        for padding in range(about - 6, about + 6)
        for more in range(4)
        if (
            token := by_hand({"alg": "HS256", "typ": "x" * more}, GOOD | {"padding": "x" * padding})
        )
    }
    assert verify(tokens[MAX_TOKEN_CHARACTERS]).subject == GOOD["sub"]
    assert refusal(tokens[MAX_TOKEN_CHARACTERS + 1]) == "token invalid"


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("odd", ["=", "==", "A", " ", "\n", "\t", "+", "/", "!", ".", "é", "\0"])
def test_there_is_one_way_to_write_a_token(at: int, odd: str) -> None:
    """Padding, white space and other characters within a good token make it a bad one."""
    parts = signed().split(".")
    for changed in (parts[at] + odd, odd + parts[at], parts[at][:4] + odd + parts[at][4:]):
        assert refusal(".".join([*parts[:at], changed, *parts[at + 1 :]])) == "token invalid"


def test_unused_bits_of_a_token() -> None:
    """The last character of a signature holds bits that say nothing: they must be zero."""
    token = signed()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    for unused in (1, 2, 3):
        assert refusal(token[:-1] + alphabet[last + unused]) == "token invalid"


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        (b'{"alg":"HS256","alg":"HS256"}', b'{"sub":"a","exp":1700000060}'),
        (b'{"alg":"HS256"}', b'{"sub":"b","sub":"a","exp":1700000060}'),
        (b'{"alg":"HS256"}', b'{"sub":"a","exp":1700000060,"more":{"a":1,"a":1}}'),
        (b'{"alg":"HS256"}', b'{"sub":"a","exp":1700000060,"more":NaN}'),
        (b'{"alg":"HS256"}', b'{"sub":"a","exp":1700000060,"more":Infinity}'),
        (b'{"alg":"HS256"}', b'\xef\xbb\xbf{"sub":"a","exp":1700000060}'),
        (b'{"alg":"HS256"}', '{"sub":"a","exp":1700000060}'.encode("utf-16")),
        (b'{"alg":"HS256"}', b'{"sub":"\xff","exp":1700000060}'),
        (b'{"alg":"HS256"}', b'[{"sub":"a","exp":1700000060}]'),
        (b'{"alg":"HS256"}', b'{"sub":"a","exp":' + b"9" * 5000 + b"}"),
        (b'{"alg":"HS256"}', b'{"sub":"a","exp":1700000060,"more":' + b"[" * 3000 + b"}"),
        (b'{"alg":"HS256"}', b""),
    ],
)
def test_claims_that_parsers_read_differently(header: bytes, claims: bytes) -> None:
    """A token whose meaning depends on who reads it is refused, though its signature is right."""
    assert refusal(by_bytes(header, claims)) == "token invalid"


def test_minted_tokens() -> None:
    """What is minted is accepted where its claims are asked for."""
    plain = mint_token(SECRET, SUBJECT, ttl=0.5, now=NOW)
    assert verify(plain, leeway=False) == Identity(SUBJECT, NOW + 0.5, is_admin=False)
    assert jwt.decode(plain, options={"verify_signature": False})["type"] == "access"
    full = mint_token(
        SECRET * 2,
        SUBJECT,
        ttl=60,
        now=NOW,
        is_admin=True,
        admin_claim="operator",
        audience="ours",
        issuer="us",
        algorithm="HS512",
    )
    asked = {
        "JWT_SECRET": SECRET * 2,
        "JWT_ALGORITHMS": "HS512",
        "JWT_AUDIENCE": "ours",
        "JWT_ISSUER": "us",
        "JWT_ADMIN_CLAIM": "operator",
    }
    assert verify(full, asked) == Identity(SUBJECT, NOW + 60, is_admin=True)


@pytest.mark.parametrize(
    ("query", "header", "offered", "expected"),
    [
        ("q", "Bearer h", ["bearer", "s"], "q"),
        (None, "Bearer h", ["bearer", "s"], "h"),
        ("", "bearer   h ", [], "h"),
        (None, None, ["bearer", "s"], "s"),
        ("", "", ["chat.v1", "bearer", "s", "other"], "s"),
        (None, "Basic dXNlcjpwdw==", ["bearer", "s"], "s"),
        (None, "Bearer ", ["bearer", "s"], "s"),
        (None, "Bearer", (), None),
        (None, None, ["bearer"], None),
        (None, None, ["s", "bearer"], None),
        (None, None, ["Bearer", "s"], None),
        (None, None, [], None),
    ],
)
def test_token_from_request(
    query: str | None, header: str | None, offered: list[str], expected: str | None
) -> None:
    """The three places are asked in the protocol's order; an empty one counts as not used."""
    assert token_from_request(query, header, offered) == expected
