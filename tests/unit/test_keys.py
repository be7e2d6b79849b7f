"""Tests of `realtime.auth.keys`: reading keys. What keeps an issuer's: `test_remote_keys`."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from realtime.auth import keys
from realtime.auth.keys import PublicKey

ALLOWED = ("RS256", "ES256", "EdDSA")
RSA_KEY = rsa.generate_private_key(65537, 2048)
WEAK_KEY = rsa.generate_private_key(65537, 1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, **members: object) -> dict[str, Any]:
    """Write a key as an entry of a key set."""
    kind: Any = OKPAlgorithm
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        kind = RSAAlgorithm
    elif isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        kind = ECAlgorithm
    entry = dict(kind.to_jwk(key, as_dict=True)) | members
    return {name: value for name, value in entry.items() if value is not None}


def key_set(*entries: object) -> bytes:
    return json.dumps({"keys": entries}).encode()


def pem(key: PublicKey | dsa.DSAPublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (RSA_KEY.public_key(), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (EC_KEY.public_key(), {"ES256"}),
        (ec.generate_private_key(ec.SECP384R1()).public_key(), {"ES384"}),
        (ec.generate_private_key(ec.SECP521R1()).public_key(), {"ES512"}),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), {"ES256K"}),
        (ED_KEY.public_key(), {"EdDSA", "Ed25519"}),
        (ed448.Ed448PrivateKey.generate().public_key(), {"EdDSA", "Ed448"}),
    ],
)
def test_public_keys(key: PublicKey, algorithms: set[str]) -> None:
    """A PEM public key is read, and serves the algorithms of its kind only."""
    assert keys.fitting_algorithms(keys.load_public_key(pem(key))) == algorithms


def test_useless_public_keys() -> None:
    """A weak key, one on a curve without an algorithm and one of another kind are refused."""
    odd_curve = ec.generate_private_key(ec.SECP224R1()).public_key()
    other_kind = dsa.generate_private_key(1024).public_key()
    for key in (WEAK_KEY.public_key(), odd_curve, other_kind):
        with pytest.raises(ValueError, match="must be an RSA key of at least 2048 bits"):
            keys.load_public_key(pem(key))


def test_key_set_leaves_out_what_is_not_for_verifying() -> None:
    """Of all that a set may hold, only public signature keys for allowed algorithms are taken."""
    rsa_key, ec_key = RSA_KEY.public_key(), EC_KEY.public_key()
    good = [
        jwk(rsa_key, kid="rsa", alg="RS256", use="sig"),
        jwk(ec_key, kid="ec", key_ops=["verify"]),
        jwk(ED_KEY.public_key()),
    ]
    bad = [
        "no object",
        {},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"},
        {"kty": "EC", "crv": "P-256", "kid": "no point"},
        {"kty": "EC", "crv": "P-256", "x": 1, "y": 2},
        {"kty": "RSA", "n": "AQAB"},
        {"kty": ["RSA"]},
        {"kty": None},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AQAB", "kid": "of tomorrow"},
        {"kty": "OKP", "crv": "X25519", "x": "AQAB", "kid": "for agreement"},
        None,
        [jwk(rsa_key)],
        jwk(rsa_key, kid="encryption", use="enc"),
        jwk(rsa_key, kid="signing only", key_ops=["sign"]),
        jwk(rsa_key, kid="operations", key_ops="verify"),
        jwk(rsa_key, kid="other algorithm", alg="RS512"),
        jwk(rsa_key, kid="algorithm", alg=["RS256"]),
        jwk(rsa_key, kid=7),
        jwk(WEAK_KEY.public_key(), kid="weak"),
        jwk(EC_KEY, kid="private"),
        jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), kid="not allowed"),
    ]
    found = keys.parse_key_set(key_set(*bad, *good), ALLOWED)
    assert [(key.kid, key.algorithms) for key in found] == [
        ("rsa", frozenset({"RS256"})),
        ("ec", frozenset({"ES256"})),
        (None, frozenset({"EdDSA"})),
    ]


def test_null_members_of_a_key_are_not_there() -> None:
    """Issuers that write all members of a key write null where one has no value."""
    empty = dict.fromkeys(["kid", "use", "key_ops", "alg", "x5c", "x5t", "x5u", "d", "p", "oth"])
    for key, names in ((RSA_KEY, {"RS256"}), (EC_KEY, {"ES256"}), (ED_KEY, {"EdDSA"})):
        entry = jwk(key.public_key()) | empty
        (found,) = keys.parse_key_set(key_set(None, entry), ALLOWED)
        assert (found.kid, found.algorithms) == (None, names)


@pytest.mark.parametrize("name", ["EdDSA", "Ed25519"])
def test_both_names_of_an_algorithm_in_a_key_set(name: str) -> None:
    """A key for EdDSA may say so by the old name or by that of its curve (RFC 9864)."""
    accepted = keys.accepted_algorithms(["EdDSA"])
    (found,) = keys.parse_key_set(key_set(jwk(ED_KEY.public_key(), alg=name)), accepted)
    assert found.algorithms == {"EdDSA", "Ed25519"}
    with pytest.raises(ValueError, match="no key in the set"):
        keys.parse_key_set(key_set(jwk(ED_KEY.public_key(), alg=name)), ["Ed448"])


MEMBERS = st.dictionaries(
    st.sampled_from(["kid", "use", "key_ops", "alg", "n", "e", "crv", "x", "y", "d", "oth", "kty"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
)


@given(st.sampled_from([RSA_KEY, EC_KEY, ED_KEY]), MEMBERS)
def test_no_entry_spoils_a_key_set(key: Any, members: dict[str, object]) -> None:
    """Whatever an issuer writes into one key, the others of the set are read."""
    entry = jwk(key.public_key()) | members
    found = keys.parse_key_set(key_set(entry, jwk(EC_KEY.public_key(), kid="good")), ALLOWED)
    assert found[-1].kid == "good"


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"<html>", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[{}]}'],
)
def test_no_key_set(body: bytes) -> None:
    """What is no key set, or one without a key of use, is an error rather than no keys."""
    with pytest.raises(ValueError):  # noqa: PT011 - json's own words are among them
        keys.parse_key_set(body, ALLOWED)
