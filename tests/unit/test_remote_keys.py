"""Tests of `realtime.auth.keys.RemoteKeys`: an issuer in the test's hand, a real HTTP server."""

import asyncio
import gzip
import socket

import pytest
import tornado.web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from tornado.httpclient import HTTPError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from realtime.auth import keys
from realtime.auth.keys import KeysUnavailable, RemoteKeys
from tests.names import NAME, names
from tests.unit.test_keys import ALLOWED, EC_KEY, ED_KEY, jwk, key_set
from tests.waiting import eventually

URL = "https://issuer.example/keys"


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """An issuer in the test's hand: what it answers, how often it was asked, when it may answer."""

    def __init__(self, *entries: object) -> None:
        self.answer: bytes | Exception = key_set(*entries)
        self.asked = 0
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self, url: str) -> bytes:
        assert url == URL
        self.asked += 1
        self.reached.set()
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer() -> Issuer:
    return Issuer(jwk(EC_KEY.public_key(), kid="one"))


@pytest.fixture
def remote(clock: Clock, issuer: Issuer) -> RemoteKeys:
    return RemoteKeys(URL, ALLOWED, clock, issuer.fetch)


@pytest.mark.gen_test
async def test_an_issuer_that_hangs_holds_up_nobody_whose_key_is_known(
    clock: Clock, issuer: Issuer
) -> None:
    """The keys are fetched all the same, and count from then on."""
    remote = RemoteKeys(URL, ALLOWED, clock, issuer.fetch, late=0.0)
    (known,) = await remote.find("one", "ES256")
    clock.now += keys.FRESH_SECONDS + 1
    issuer.open.clear()
    assert await remote.find("one", "ES256") == (known,)
    issuer.answer = key_set(jwk(ED_KEY.public_key(), kid="two"))
    issuer.open.set()
    assert len(await remote.find("two", "EdDSA")) == 1
    assert await remote.find("one", "ES256") == ()


@pytest.mark.gen_test
async def test_key_is_fetched_once(remote: RemoteKeys, issuer: Issuer) -> None:
    """A set is fetched when it is first needed, and then kept."""
    for _ in range(3):
        assert await remote.find("one", "ES256") == (EC_KEY.public_key(),)
    assert issuer.asked == 1


@pytest.mark.gen_test
async def test_algorithm_that_is_not_allowed(remote: RemoteKeys, issuer: Issuer) -> None:
    """Nobody makes us fetch with an algorithm that no key could have."""
    assert not await remote.find("one", "HS256")
    assert issuer.asked == 0


@pytest.mark.gen_test
async def test_key_for_another_algorithm(remote: RemoteKeys) -> None:
    """A key is not used with an algorithm of another kind, though that one is allowed too."""
    assert not await remote.find("one", "RS256")


@pytest.mark.gen_test
async def test_without_a_key_id(clock: Clock) -> None:
    """A token that names no key may be signed with any that fits; a key listed twice is one."""
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    one, two = jwk(EC_KEY.public_key(), kid="one"), jwk(other, kid="two")
    again, ed = jwk(EC_KEY.public_key(), kid="again"), jwk(ED_KEY.public_key())
    remote = RemoteKeys(URL, ALLOWED, clock, Issuer(one, one, again, two, ed).fetch)
    assert await remote.find(None, "ES256") == (EC_KEY.public_key(), other)
    assert await remote.find(None, "EdDSA") == (ED_KEY.public_key(),)
    assert await remote.find("one", "ES256") == (EC_KEY.public_key(),)
    assert await remote.find("one", "EdDSA") == ()


@pytest.mark.gen_test
async def test_one_key_id_for_two_keys(clock: Clock) -> None:
    """An issuer that gives two keys one id means either."""
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    same = (jwk(EC_KEY.public_key(), kid="same"), jwk(other, kid="same"))
    remote = RemoteKeys(URL, ALLOWED, clock, Issuer(*same).fetch)
    assert await remote.find("same", "ES256") == (EC_KEY.public_key(), other)


@pytest.mark.gen_test
async def test_keys_that_are_tried_are_few(clock: Clock) -> None:
    """Who sends a token without an id cannot have a hundred signatures computed."""
    many = [
        jwk(ed25519.Ed25519PrivateKey.generate().public_key())
        for _ in range(keys.MAX_KEYS_TRIED + 1)
    ]
    remote = RemoteKeys(URL, ALLOWED, clock, Issuer(*many).fetch)
    assert len(await remote.find(None, "EdDSA")) == keys.MAX_KEYS_TRIED


@pytest.mark.gen_test
async def test_concurrent_callers_share_one_fetch(remote: RemoteKeys, issuer: Issuer) -> None:
    """A crowd that arrives at a cold start is one request; who leaves does not take it along."""
    issuer.open.clear()
    crowd = [asyncio.create_task(remote.find("one", "ES256")) for _ in range(5)]
    await issuer.reached.wait()
    crowd[0].cancel()
    issuer.open.set()
    found = await asyncio.gather(*crowd, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(keys == (EC_KEY.public_key(),) for keys in found[1:])
    assert issuer.asked == 1


@pytest.mark.gen_test
async def test_rotation(remote: RemoteKeys, issuer: Issuer, clock: Clock) -> None:
    """An unknown key id is looked up again, but not for everyone who makes one up."""
    assert await remote.find("one", "ES256")
    issuer.answer = key_set(jwk(EC_KEY.public_key(), kid="two"))
    with pytest.raises(KeysUnavailable):
        await remote.find("two", "ES256")
    assert issuer.asked == 1
    clock.now += keys.REFETCH_SECONDS
    assert await remote.find("two", "ES256")
    assert issuer.asked == 2


@pytest.mark.gen_test
async def test_an_id_that_is_made_up_does_not_refuse_a_key_that_comes_after_it(
    remote: RemoteKeys, issuer: Issuer, clock: Clock
) -> None:
    """Between two fetches nobody knows what was published: the token is to come again."""
    assert await remote.find("made up", "ES256") == ()
    issuer.answer = key_set(jwk(EC_KEY.public_key(), kid="two"))
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await remote.find("two", "ES256")
    assert await remote.find("made up", "ES256") == ()
    assert issuer.asked == 1
    clock.now += keys.REFETCH_SECONDS
    assert await remote.find("two", "ES256") == (EC_KEY.public_key(),)


@pytest.mark.gen_test
async def test_a_key_that_was_taken_away_is_refused_by_the_next_fetch(
    remote: RemoteKeys, issuer: Issuer, clock: Clock
) -> None:
    """Whoever asks for that fetch; and from then on without another."""
    assert await remote.find("one", "ES256")
    issuer.answer = key_set(jwk(EC_KEY.public_key(), kid="two"))
    clock.now += keys.FRESH_SECONDS + 1
    assert await remote.find("two", "ES256")
    with pytest.raises(KeysUnavailable):
        await remote.find("one", "ES256")
    clock.now += keys.REFETCH_SECONDS
    assert await remote.find("made up", "ES256") == ()
    assert await remote.find("one", "ES256") == ()
    clock.now += keys.REFETCH_SECONDS
    assert await remote.find("one", "ES256") == ()
    assert await remote.find("one", "ES256") == ()
    assert issuer.asked == 4


@pytest.mark.gen_test
async def test_a_fetch_says_nothing_of_a_key_that_was_asked_for_after_it_began(
    remote: RemoteKeys, issuer: Issuer
) -> None:
    """What it brings may have been written before the key was published."""
    issuer.open.clear()
    first = asyncio.create_task(remote.find("made up", "ES256"))
    await issuer.reached.wait()
    later = asyncio.create_task(remote.find("two", "ES256"))
    await asyncio.sleep(0)
    issuer.open.set()
    assert await first == ()
    with pytest.raises(KeysUnavailable):
        await later
    assert issuer.asked == 1


@pytest.mark.gen_test
async def test_a_flood_of_made_up_ids(remote: RemoteKeys, issuer: Issuer, clock: Clock) -> None:
    """What is remembered of them is bounded, and a new key is fetched as soon as without them."""
    assert await remote.find("one", "ES256")
    issuer.answer = key_set(jwk(EC_KEY.public_key(), kid="two"))
    for number in range(3 * keys.MAX_ASKED):
        with pytest.raises(KeysUnavailable):
            await remote.find(f"made up {number}", "ES256")
    assert len(remote._asked) == keys.MAX_ASKED
    assert issuer.asked == 1
    clock.now += keys.REFETCH_SECONDS
    assert await remote.find("made up", "ES256") == ()
    assert await remote.find("two", "ES256") == (EC_KEY.public_key(),)
    assert issuer.asked == 2


@pytest.mark.gen_test
async def test_old_set_is_fetched_again(remote: RemoteKeys, issuer: Issuer, clock: Clock) -> None:
    """A key that the issuer withdrew is refused once the kept set is old."""
    assert await remote.find("one", "ES256")
    issuer.answer = key_set(jwk(EC_KEY.public_key(), kid="two"))
    clock.now += keys.FRESH_SECONDS
    assert await remote.find("one", "ES256")
    clock.now += 1
    assert not await remote.find("one", "ES256")
    assert issuer.asked == 2


@pytest.mark.gen_test
async def test_clock_set_back(remote: RemoteKeys, issuer: Issuer, clock: Clock) -> None:
    """A clock that is set back does not keep an old set fresh."""
    assert await remote.find("one", "ES256")
    clock.now -= 86400
    assert await remote.find("one", "ES256")
    assert issuer.asked == 2


@pytest.mark.gen_test
async def test_issuer_away(
    remote: RemoteKeys, issuer: Issuer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Known keys serve on for a while, others are neither known nor unknown; then all are not."""
    assert await remote.find("one", "ES256")
    issuer.answer = ConnectionRefusedError("nobody there")
    clock.now += keys.FRESH_SECONDS + 1
    assert await remote.find("one", "ES256")
    with pytest.raises(KeysUnavailable):
        await remote.find("two", "ES256")
    assert issuer.asked == 2
    assert "ConnectionRefusedError: nobody there" in caplog.text
    clock.now += keys.STALE_SECONDS
    with pytest.raises(KeysUnavailable):
        await remote.find("one", "ES256")
    assert issuer.asked == 3


@pytest.mark.gen_test
async def test_a_clock_that_is_set_back_keeps_no_key_of_an_issuer_that_is_away(
    remote: RemoteKeys, issuer: Issuer, clock: Clock
) -> None:
    """It may have been withdrawn since; nobody knows how long ago it was fetched."""
    assert await remote.find("one", "ES256")
    issuer.answer = ConnectionRefusedError("nobody there")
    clock.now -= keys.STALE_SECONDS
    assert await remote.find("one", "ES256")
    clock.now -= 1
    with pytest.raises(KeysUnavailable):
        await remote.find("one", "ES256")


@pytest.mark.gen_test
async def test_issuer_comes_back(remote: RemoteKeys, issuer: Issuer, clock: Clock) -> None:
    """After a failure the issuer is asked again soon, but not by every caller."""
    answer, issuer.answer = issuer.answer, b"<html>down for maintenance"
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await remote.find("one", "ES256")
    assert issuer.asked == 1
    issuer.answer = answer
    clock.now += keys.RETRY_SECONDS
    assert await remote.find("one", "ES256")


@pytest.mark.gen_test
async def test_issuer_hangs(issuer: Issuer, clock: Clock) -> None:
    """An issuer that does not answer is given up."""
    remote = RemoteKeys(URL, ALLOWED, clock, issuer.fetch, timeout=0.01)
    issuer.open.clear()
    with pytest.raises(KeysUnavailable):
        await remote.find("one", "ES256")


class KeySetHandler(tornado.web.RequestHandler):
    """What real servers may answer."""

    async def get(self, case: str) -> None:
        if case == "good":
            self.write(key_set(jwk(EC_KEY.public_key(), kid="one")))
        elif case == "moved":
            self.redirect("/good")
        elif case == "large":
            self.write(b" " * (keys.MAX_KEY_SET_BYTES + 1))
        elif case == "streamed":  # without a Content-Length
            self.write(b" " * (keys.MAX_KEY_SET_BYTES + 1))
            await self.flush()
        elif case == "packed":
            self.set_header("Content-Encoding", "gzip")
            self.write(gzip.compress(b" " * 1_000_000))
        else:
            self.send_error(503)


@pytest.fixture
def app() -> tornado.web.Application:
    return tornado.web.Application([("/(.*)", KeySetHandler)], log_function=lambda _: None)


@pytest.mark.gen_test
async def test_fetch_over_http(http_server: object, base_url: str, clock: Clock) -> None:
    """The keys of a real server are found."""
    assert http_server
    remote = RemoteKeys(f"{base_url}/good", ALLOWED, clock)
    assert await remote.find("one", "ES256") == (EC_KEY.public_key(),)


@pytest.mark.gen_test
async def test_an_address_of_the_issuer_where_nobody_answers(
    http_server: object,
    http_port: int,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next one is asked beside it, and nothing is said of the first in the log."""
    assert http_server
    ended: list[object] = []

    class Client(SimpleAsyncHTTPClient):
        def close(self) -> None:
            super().close()
            ended.append(self)

    monkeypatch.setattr(keys, "AsyncHTTPClient", Client)
    monkeypatch.setattr(keys, "FETCH_SECONDS", 1.0)
    names(monkeypatch, "127.0.0.2", "127.0.0.1")
    with socket.create_server(("127.0.0.2", http_port)):
        remote = RemoteKeys(f"http://{NAME}:{http_port}/good", ALLOWED, clock)
        assert await remote.find("one", "ES256") == (EC_KEY.public_key(),)
        await eventually(lambda: len(ended) == 2)
    assert not caplog.records
    with pytest.raises(HTTPError, match="503"):
        await keys.fetch_key_set(f"http://{NAME}:{http_port}/gone")


@pytest.mark.gen_test
async def test_fetch_is_bounded(http_server: object, base_url: str) -> None:
    """An error, a redirect and a large answer fail, and a packed one is not unpacked."""
    assert http_server
    for case in ("gone", "moved"):
        with pytest.raises(HTTPError):
            await keys.fetch_key_set(f"{base_url}/{case}")
    for case in ("large", "streamed"):
        with pytest.raises(ConnectionError, match="or the answer has more than 262,144 bytes"):
            await keys.fetch_key_set(f"{base_url}/{case}")
    assert len(await keys.fetch_key_set(f"{base_url}/packed")) < 10_000
