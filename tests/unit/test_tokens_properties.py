"""Property tests of `realtime.auth.tokens`: whatever comes, only the documented errors come out."""

from hypothesis import given
from hypothesis import strategies as st

from realtime.auth.tokens import LATEST_TIME, Identity, TokenError
from tests.unit.test_keys import EC_KEY, RSA_KEY, jwk, key_set, pem
from tests.unit.test_tokens import ENVIRON, GOOD, JWKS, NOW, by_hand, run, signed, verifier

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CLAIMS = st.dictionaries(
    st.sampled_from(["exp", "sub", "nbf", "iat", "aud", "iss", "jti", "type", "admin"]), JSON
)
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "crit", "b64", "typ", "zip", "jwk"]), JSON | st.just("HS256")
)


def outcome(token: str) -> Identity | str:
    """Verify with every kind of key: whatever the token, only the documented errors come out."""
    results: list[Identity | str] = []
    body = key_set(jwk(EC_KEY.public_key()))
    for environ in (ENVIRON, {"JWT_PUBLIC_KEY": pem(RSA_KEY.public_key())}, JWKS):
        try:
            results.append(run(verifier(environ, body).verify(token)))
        except TokenError as error:
            results.append(error.reason)
    assert all(result in ("token invalid", "token missing") for result in results[1:])
    return results[0]


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"))
def test_any_text(text: str) -> None:
    """No text is an identity."""
    assert outcome(text) in ("token invalid", "token missing")


@given(st.data())
def test_mutated_token(data: st.DataObject) -> None:
    """A good token with one character changed is not good."""
    good = signed()
    at = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.characters().filter(lambda character: character != good[at]))
    assert outcome(good[:at] + other + good[at + 1 :]) == "token invalid"


@given(CLAIMS)
def test_any_claims(claims: dict[str, object]) -> None:
    """Whatever is signed is refused with a reason, or is an identity that can be used."""
    found = outcome(by_hand({"alg": "HS256"}, GOOD | claims))
    if isinstance(found, Identity):
        assert NOW - 5 < found.expires_at <= LATEST_TIME
        assert found.subject.encode()
    else:
        assert found.startswith("token ")


@given(HEADERS, JSON)
def test_any_header(header: dict[str, object], payload: object) -> None:
    """Whatever stands in the header or for the claims, nothing but a refusal comes of it."""
    assert isinstance(outcome(by_hand(header, payload)), str)
