"""Tests of `realtime.auth.tokens`: who may sign a token, and how."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from realtime.auth.tokens import KeysUnavailable, TokenError
from tests.unit.test_keys import EC_KEY, ED_KEY, RSA_KEY, jwk, key_set, pem
from tests.unit.test_tokens import (
    GOOD,
    JWKS,
    SECRET,
    SUBJECT,
    by_hand,
    encoded,
    refusal,
    run,
    signed,
    verifier,
    verify,
)


@pytest.mark.parametrize(
    "header",
    [
        [],
        "HS256",
        {},
        {"alg": None},
        {"alg": ["HS256"]},
        {"alg": {"HS256": 1}},
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "hs256"},
        {"alg": "HS512"},
        {"alg": "RS256"},
        {"alg": "HS256", "kid": 7},
        {"alg": "HS256", "kid": ["one"]},
        {"alg": "HS256", "crit": ["exp"], "exp": 1},
        {"alg": "HS256", "crit": ["b64"], "b64": True},
        {"alg": "HS256", "crit": []},
        {"alg": "HS256", "crit": None},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "b64": False},
        [["alg", "HS256"]],
    ],
)
def test_headers_that_are_refused(header: object) -> None:
    """The header chooses neither the algorithm nor what we must understand."""
    assert refusal(by_hand(header, GOOD)) == "token invalid"


def test_unsigned_token() -> None:
    """A token that says it needs no signature is not believed."""
    assert refusal(jwt.encode(GOOD, "", algorithm="none")) == "token invalid"


def test_forged_tokens() -> None:
    """Another secret, another payload and a shortened signature are not ours."""
    header, _, signature = signed().split(".")
    _, payload, _ = signed(sub="someone else").split(".")
    assert refusal(by_hand({"alg": "HS256"}, GOOD, "b" + SECRET[1:])) == "token invalid"
    assert refusal(f"{header}.{payload}.{signature}") == "token invalid"
    assert refusal(signed()[:-4]) == "token invalid"
    assert refusal(f"{header}.{payload}.") == "token invalid"


def test_public_key_is_no_secret() -> None:
    """A token signed with the public key as if it were a secret is refused."""
    for key in (RSA_KEY, EC_KEY, ED_KEY):
        text = pem(key.public_key())
        for secret in (text, text.strip(), text + "\n"):
            forged = by_hand({"alg": "HS256"}, GOOD, secret)
            assert refusal(forged, {"JWT_PUBLIC_KEY": text}) == "token invalid"


@pytest.mark.parametrize(
    ("key", "algorithm", "other"),
    [(RSA_KEY, "RS256", "PS256"), (EC_KEY, "ES256", "ES256"), (ED_KEY, "EdDSA", "ES256")],
)
def test_public_keys(key: Any, algorithm: str, other: str) -> None:
    """A token of the private key is good, whatever its kid; other keys and algorithms are not."""
    environ = {"JWT_PUBLIC_KEY": pem(key.public_key()).replace("\n", "\\n")}
    token = jwt.encode(GOOD, key, algorithm, headers={"kid": "any"})
    assert verify(token, environ).subject == SUBJECT
    stranger = RSA_KEY if other == "PS256" else ec.generate_private_key(ec.SECP256R1())
    assert refusal(jwt.encode(GOOD, stranger, other), environ) == "token invalid"


def test_published_keys() -> None:
    """With a key set the token's kid names its key."""
    body = key_set(jwk(EC_KEY.public_key(), kid="one"), jwk(RSA_KEY.public_key(), kid="two"))
    remote = verifier(JWKS, body)
    one = jwt.encode(GOOD, EC_KEY, "ES256", headers={"kid": "one"})
    unnamed = jwt.encode(GOOD, RSA_KEY, "RS256")
    for token in (one, unnamed):
        assert run(remote.verify(token)).subject == SUBJECT
    wrong = jwt.encode(GOOD, EC_KEY, "ES256", headers={"kid": "two"})
    unknown = jwt.encode(GOOD, EC_KEY, "ES256", headers={"kid": "three"})
    with pytest.raises(TokenError, match="token invalid"):
        run(remote.verify(wrong))
    with pytest.raises(KeysUnavailable):  # it may have been published since
        run(remote.verify(unknown))


def test_unnamed_keys() -> None:
    """A token without kid is good if one of the issuer's keys signed it, and only then."""
    other = rsa.generate_private_key(65537, 2048)
    stranger = rsa.generate_private_key(65537, 2048)
    body = key_set(
        *(jwk(key.public_key(), kid=kid) for kid, key in (("one", RSA_KEY), ("two", other)))
    )
    remote = verifier(JWKS, body)
    for key in (RSA_KEY, other):
        assert run(remote.verify(jwt.encode(GOOD, key, "RS256"))).subject == SUBJECT
    with pytest.raises(TokenError, match="token invalid"):
        run(remote.verify(jwt.encode(GOOD, stranger, "RS256")))


@pytest.mark.parametrize("published", [None, "EdDSA", "Ed25519"])
@pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
def test_both_names_of_an_algorithm(name: str, published: str | None) -> None:
    """EdDSA among the algorithms accepts the name that RFC 9864 gives it, too."""
    token = by_name(name)
    body = key_set(jwk(ED_KEY.public_key(), kid="one", alg=published))
    assert run(verifier(JWKS, body).verify(token)).subject == SUBJECT
    pinned = {"JWT_PUBLIC_KEY": pem(ED_KEY.public_key())}
    assert verify(token, pinned).subject == SUBJECT
    assert verify(by_name("Ed25519"), pinned | {"JWT_ALGORITHMS": "Ed25519"}).subject == SUBJECT
    refused = pinned | {"JWT_ALGORITHMS": "Ed25519"}
    assert refusal(by_name("EdDSA"), refused) == "token invalid"
    assert refusal(by_name("Ed448"), pinned) == "token invalid"


def by_name(algorithm: str) -> str:
    """Sign a good token with the EdDSA key; PyJWT does not know the newer names."""
    header, payload = ({"alg": algorithm}, GOOD)
    parts = [encoded(json.dumps(part).encode()) for part in (header, payload)]
    signature = ED_KEY.sign(b".".join(parts))
    return b".".join([*parts, encoded(signature)]).decode()


def test_published_keys_away() -> None:
    """Where the keys cannot be had, the token is not called bad."""
    token = jwt.encode(GOOD, EC_KEY, "ES256", headers={"kid": "one"})
    with pytest.raises(KeysUnavailable):
        run(verifier(JWKS, OSError("no route")).verify(token))
