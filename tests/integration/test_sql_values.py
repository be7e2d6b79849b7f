"""Values that JSON or its readers cannot take as PostgreSQL has them, and databases that differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado.ioloop import IOLoop

from realtime.doctor.checkup import examine
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.access import Access
from realtime.postgres.listener import read_position
from realtime.postgres.pool import open_pool
from realtime.postgres.reasons import why_unreachable
from realtime.postgres.release import ReleaseError, bring_up_to_date
from realtime.postgres.schema import SchemaError
from realtime.relay.admission import Admission, AdmissionRequest
from realtime.relay.errors import Refused
from realtime.relay.position import Lineage
from tests.doctor import deployment
from tests.integration.sql_log import Log, act_as
from tests.platform import Platform
from tests.serving import World
from tests.waiting import eventually

TOO_DEEP = {"omitted": "nested too deeply"}
SAY = """INSERT INTO messages (session_id, bot_id, user_id, role, content, metadata, created_at)
    VALUES ($1, $2, $3, 'user', '', $4::text::jsonb, $5::text::timestamptz)"""
NOW = "2023-01-01 00:00:00+00"


async def say(platform: Platform, world: World, metadata: str = "{}", at: str = NOW) -> None:
    await platform.execute(SAY, world.session, world.bot, world.guest, metadata, at)


async def data_of_last(platform: Platform, world: World, metadata: str) -> Any:
    """What a client reads as the metadata of a message."""
    log = await Log.since_now(platform)
    await say(platform, world, metadata)
    (message,) = await log.messages()
    return message["data"]["metadata"]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("time", "told"),
    [
        ("0044-03-15 12:00:00+00 BC", None),
        ("0001-12-31 23:59:59+00 BC", None),
        ("0001-01-01 00:00:00+00", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31 23:59:59.999999+00", "9999-12-31T23:59:59.999999Z"),
        ("10000-01-01 00:00:00+00", None),
        ("294276-12-31 23:59:59+00", None),
        ("-infinity", None),
        ("infinity", None),
    ],
)
async def test_a_time_that_rfc_3339_cannot_say_is_null(
    platform: Platform, world: World, time: str, told: str | None
) -> None:
    """In a message, and in the columns of a bot."""
    log = await Log.since_now(platform)
    await platform.execute("SET TimeZone = 'Pacific/Apia'")
    await say(platform, world, at=time)
    await platform.execute("UPDATE bots SET created_at = $1::text::timestamptz", time)
    message, update = await log.messages()
    assert message["data"]["timestamp"] == told
    assert update["data"]["details"] == {"created_at": told}


@pytest.mark.gen_test
async def test_a_number_that_no_parser_takes_is_a_string(platform: Platform, world: World) -> None:
    """Python refuses one of 4,300 digits, and to JavaScript one of 309 is infinite."""
    digits = "1" + "0" * 6000
    text = f'{{"a": [{digits}, -{digits}.25, 12.5], "s": "in \\" {digits}", "b": 1e250}}'
    short = "9" * 250
    assert await data_of_last(platform, world, text) == {
        "a": [digits, f"-{digits}.25", 12.5],
        "s": f'in " {digits}',
        "b": str(10**250),
    }
    assert await data_of_last(platform, world, f'{{"n": {short}}}') == {"n": int(short)}


@pytest.mark.gen_test
async def test_a_value_that_is_nested_too_deeply_is_left_out(
    platform: Platform, world: World
) -> None:
    """Parsers that call themselves for each level fail, and would lose the message."""
    for level in (500, 501, 3000):
        for left, right in (("[", "]"), ('{"a":', "}")):
            nested = left * (level - 1) + "[]" + right * (level - 1)
            expected = json.loads(nested) if level == 500 else TOO_DEEP
            assert await data_of_last(platform, world, nested) == expected
    wide = [{"text": "[[[" * 300, "n": n} for n in range(2000)]
    assert await data_of_last(platform, world, json.dumps(wide)) == wide


DIGITS = st.sampled_from([1, 2, 249, 250, 251, 252, 700]).map(lambda count: "7" * count)
NUMBERS = st.builds(
    lambda sign, digits, rest: f"{sign}{digits}{rest}",
    st.sampled_from(["", "-"]),
    DIGITS,
    st.sampled_from(["", ".25", "e1"]),
)
STRINGS = st.lists(st.sampled_from(['\\"', "\\\\", "\\u0022", "-", "[", "{", "é"]) | DIGITS).map(
    lambda parts: f'"{"".join(parts)}"'
)
JSON_TEXTS = st.recursive(
    NUMBERS | STRINGS | st.just("null"),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda all_: f"[{', '.join(all_)}]")
        | st.tuples(inner, st.integers(1, 260)).map(
            lambda one: "[" * one[1] + one[0] + "]" * one[1]
        )
        | st.tuples(STRINGS, inner).map(lambda member: f"{{{member[0]}: {member[1]}}}")
    ),
    max_leaves=12,
)


def as_it_is_sent(text: str) -> Any:
    """What a client reads of it: long numbers are strings, and what is too deep is left out."""

    def number(digits: str) -> Any:
        return digits if len(digits.lstrip("-")) > 250 else ("number", digits)

    value = json.loads(text, parse_int=number, parse_float=number)
    return TOO_DEEP if levels(value) > 500 else value


def levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    is_nested = isinstance(value, list | dict)
    return 1 + max(map(levels, inner), default=0) if is_nested else 0


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(JSON_TEXTS)
def test_any_json_is_as_every_parser_takes_it(
    io_loop: IOLoop, platform: Platform, text: str
) -> None:
    """Strings stay as they are, whatever is in them; so do numbers of up to 250 characters."""
    query = "SELECT relay.json_data($1)"
    sent = io_loop.run_sync(lambda: platform.connection.fetchval(query, text))
    keep = {"parse_int": lambda one: ("number", one), "parse_float": lambda one: ("number", one)}
    assert json.loads(sent, **keep) == as_it_is_sent(text)


@pytest.mark.gen_test(timeout=60)
async def test_what_is_too_large_for_a_regular_expression_is_sent_as_it_is(
    platform: Platform, world: World
) -> None:
    """The writer does not fail. No client reads so much, and a relay need not, either."""
    size = await platform.connection.fetchval(
        "SELECT octet_length(relay.json_data(jsonb_build_array(repeat(E'\\x01', $1))::text))",
        45_000_000,
    )
    assert size == 6 * 45_000_000 + len('[""]')


@pytest.mark.gen_test
async def test_such_values_in_bots_and_in_events_of_ones_own(
    platform: Platform, world: World
) -> None:
    """Wherever a platform's JSON goes out."""
    digits = "7" * 5000
    log = await Log.since_now(platform)
    await platform.execute("ALTER TABLE bots ADD COLUMN score numeric")
    await platform.execute(
        "UPDATE bots SET score = $1::text::numeric, config = $2::text::jsonb",
        digits,
        "[" * 600 + "]" * 600,
    )
    data = f'{{"n": {digits}}}'
    await platform.execute("SELECT relay.emit($1, 'x', $2::text::jsonb)", f"bot:{world.bot}", data)
    await platform.execute(
        "SELECT relay.notify_user($1::text::uuid, 'x', $2::text::jsonb)", world.guest, data
    )
    update, emitted, notified = await log.messages()
    assert update["data"]["details"] == {"score": digits, "config": TOO_DEEP}
    assert emitted["data"] == notified["data"] == {"n": digits}


@pytest.fixture
def large(io_loop: IOLoop, platform: Platform, world: World) -> Platform:
    """A bot with 140 MB in a column."""

    async def fill() -> None:
        await platform.execute("ALTER TABLE bots ADD COLUMN model bytea, ADD COLUMN notes text")
        # Random, so that it is not compressed away; made of few, so that it is soon made.
        await platform.execute(
            """UPDATE bots SET model = (SELECT string_agg(part, ''::bytea) FROM (
                SELECT decode(repeat(md5(n::text) || md5((-n)::text), 16384), 'hex') AS part
                FROM generate_series(1, 280) AS n) AS parts)"""
        )

    io_loop.run_sync(fill, timeout=120)
    assert world.bot
    return platform


@pytest.mark.gen_test(timeout=120)
async def test_a_large_column_does_not_concern_other_updates(large: Platform) -> None:
    """Its value is left where it is: neither compared nor written anywhere. Nor is it ever told."""
    size = await large.connection.fetchval("SELECT octet_length(model) FROM bots")
    assert size > 140_000_000
    log = await Log.since_now(large)
    await large.execute("UPDATE bots SET name = 'Eve'")
    (update,) = await log.messages()
    assert update["data"]["details"] == {"name": "Eve"}
    await large.execute("UPDATE bots SET model = model || 'x'::bytea, notes = 'grown'")
    (update,) = await log.messages()
    assert update["data"]["details"] == {"model": {"omitted": "too large"}, "notes": "grown"}


@pytest.mark.gen_test(timeout=120)
async def test_a_large_column_that_did_not_change_is_not_read(large: Platform) -> None:
    """As the counters of the table that holds it say."""
    version = await large.connection.fetchval("SELECT current_setting('server_version_num')::int")
    if version < 170_000:
        pytest.skip("before PostgreSQL 17 it is compared")
    toast = """SELECT coalesce(s.toast_blks_hit, 0) + coalesce(s.toast_blks_read, 0)
        FROM (SELECT pg_stat_clear_snapshot()) AS _, pg_statio_user_tables AS s
        WHERE s.relname = 'bots'"""
    await large.execute("SELECT pg_stat_force_next_flush()")
    before = await large.connection.fetchval(toast)
    await large.execute("UPDATE bots SET name = 'Eve'")
    await large.execute("SELECT pg_stat_force_next_flush()")
    assert await large.connection.fetchval(toast) - before < 100


@pytest.mark.gen_test(timeout=120)
@pytest.mark.parametrize("kind", ["twice", "bytea[]", "pair"])
async def test_a_large_value_of_any_type_fails_no_writer(
    platform: Platform, world: World, kind: str
) -> None:
    """As JSON it would be longer than PostgreSQL allows, also where only another column changed."""
    await platform.execute("CREATE DOMAIN once AS bytea; CREATE DOMAIN twice AS once")
    await platform.execute("CREATE TYPE pair AS (one bytea, other bytea)")
    await platform.execute(f"ALTER TABLE bots ADD COLUMN large {kind}")
    large = "convert_to(repeat('x', 140000000), 'UTF8')"
    value = {"bytea[]": f"ARRAY[{large}]", "pair": f"ROW({large}, NULL)"}.get(kind, large)
    log = await Log.since_now(platform)
    await platform.execute(f"UPDATE bots SET large = {value}")
    await platform.execute("UPDATE bots SET name = 'Eve'")
    written, renamed = await log.messages()
    assert written["data"]["details"] == {"large": {"omitted": "too large"}}
    assert renamed["data"]["details"] == {"name": "Eve"}


@pytest.mark.gen_test
async def test_standard_conforming_strings_may_be_off(platform: Platform, world: World) -> None:
    """As old applications have it: backslashes in literals mean something then."""
    await platform.execute("SET standard_conforming_strings = off; SET escape_string_warning = off")
    log = await Log.since_now(platform)
    await act_as(platform, world.owner)
    await say(platform, world, '{"a": "\\\\ \\" b"}')
    await platform.execute("SELECT relay.emit($1, 'poll_opened', '{}')", f"bot:{world.bot}")
    await platform.execute("SELECT relay.notify_user($1::text::uuid, 'poll', '{}')", world.guest)
    await platform.execute("UPDATE bots SET name = E'a\\\\b', config = '{\"n\": 1}'")
    await platform.execute(
        "UPDATE messages SET metadata = jsonb_build_object('n', $1::text::numeric)", "8" * 400
    )
    said, emitted, notified, update, edited = await log.messages()
    assert said["data"]["metadata"] == {"a": '\\ " b'}
    assert (emitted["type"], notified["notification_type"]) == ("poll_opened", "poll")
    assert update["data"]["details"] == {"name": "a\\b", "config": {"n": 1}}
    assert edited["data"]["metadata"] == {"n": "8" * 400}


@pytest.fixture
def encoded(postgres: EmbeddedPostgres, encoding: str) -> Iterator[str]:
    """The address of a database of that encoding, not migrated yet."""
    name = f"test_{uuid4().hex[:12]}"
    postgres.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    yield postgres.dsn(name)
    postgres.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("LATIN1", "Gr\u00fc\u00dfe"), ("WIN1252", "5 \u20ac"), ("EUC_JP", "\u4e16\u754c")],
)
def test_databases_of_other_encodings_work(io_loop: IOLoop, encoded: str, text: str) -> None:
    """What was written arrives as the same text, also where it stands in JSON or a name."""
    bring_up_to_date(encoded)

    async def write_and_read() -> None:
        platform = await Platform.connect(encoded)
        log = await Log.since_now(platform)
        user = await platform.user(text)
        bot = await platform.bot(user)
        session = await platform.session(bot, user)
        await platform.message(session, bot, user, text)
        await platform.execute("UPDATE bots SET name = $1", text)
        emitted = json.dumps({"text": text}, ensure_ascii=False)
        await platform.execute("SELECT relay.emit($1, 'x', $2::text::jsonb)", f"bot:{bot}", emitted)
        said, update, own = await log.messages()
        assert (said["data"]["username"], said["data"]["content"]) == (text, text)
        assert update["data"]["details"] == {"name": text}
        assert own["data"] == {"text": text}
        await platform.connection.close()

    io_loop.run_sync(write_and_read)


GUARD = (
    "SELECT count(*) FROM pg_trigger"
    " WHERE tgrelid = 'relay.events'::regclass AND tgname = 'readable'"
)
COME_FROM_ELSEWHERE = "UPDATE relay.floor SET database = 0"


@pytest.mark.gen_test
async def test_where_all_text_is_utf_8_nothing_looks_at_it(platform: Platform) -> None:
    """A trigger would cost each insert; one that came with a dump is taken away."""
    assert await platform.connection.fetchval(GUARD) == 0
    await platform.execute(
        "CREATE TRIGGER readable BEFORE INSERT ON relay.events"
        " FOR EACH ROW EXECUTE FUNCTION relay.make_readable()"
    )
    await platform.execute(COME_FROM_ELSEWHERE)
    await platform.execute("SELECT relay.forget_foreign_log()")
    assert await platform.connection.fetchval(GUARD) == 0


@pytest.mark.parametrize("encoding", ["WIN1252"])
def test_a_log_that_came_from_another_encoding_is_guarded_from_then_on(
    io_loop: IOLoop, encoded: str
) -> None:
    """A dump of a UTF-8 database has no guard; the first server that reads the copy makes it."""
    bring_up_to_date(encoded)

    async def restore() -> None:
        platform = await Platform.connect(encoded)
        assert await platform.connection.fetchval(GUARD) == 1
        await platform.execute("DROP TRIGGER readable ON relay.events")
        await platform.execute(COME_FROM_ELSEWHERE)
        await platform.execute("SELECT relay.forget_foreign_log()")
        assert await platform.connection.fetchval(GUARD) == 1
        await platform.connection.close()

    io_loop.run_sync(restore)


@pytest.mark.parametrize(
    ("encoding", "odd"), [("WIN1252", "81"), ("ISO_8859_7", "ff"), ("EUC_JP", "fdfe")]
)
def test_what_is_no_character_of_utf_8_keeps_nobody_from_reading(
    io_loop: IOLoop, encoded: str, odd: str
) -> None:
    """A program that speaks the database's own encoding can write it: it is a question mark."""
    bring_up_to_date(encoded)
    text = f"convert_from('\\x61{odd}', getdatabaseencoding())"

    async def write_and_read() -> None:
        platform = await Platform.connect(encoded)
        log = await Log.since_now(platform)
        user = await platform.user()
        bot = await platform.bot(user)
        session = await platform.session(bot, user)
        await platform.message(session, bot, user, "before")
        await platform.execute(f"UPDATE messages SET content = repeat({text} || 'b', 20000)")
        await platform.execute(
            f"SELECT relay.emit('bot:{bot}', {text}, jsonb_build_object('x', {text}))"
        )
        await platform.execute(f"UPDATE users SET username = {text}")
        await platform.execute(f"UPDATE bots SET name = {text}")
        _, edited, own, update = await log.messages()
        assert edited["data"]["content"] == "a?b" * 20_000
        assert (own["type"], own["data"]) == ("a?", {"x": "a?"})
        assert update["data"]["details"] == {"name": "a?"}
        lineage = Lineage(await read_position(encoded, 10))
        async with open_pool(encoded, size=1, timeout=10, is_pooled=False) as pool:
            access = Access(pool, lineage, subject_kind="id", timeout=10)
            admission, nobody = await access.authorize(
                [AdmissionRequest(user, bot), AdmissionRequest("\U0001f600", bot)]
            )
        assert isinstance(admission, Admission)
        assert isinstance(nobody, Refused)
        assert nobody.code == 4001, "a subject that the encoding does not have is nobody's"
        assert (admission.username, admission.bot_name) == ("a?", "a?")
        await platform.connection.close()

    io_loop.run_sync(write_and_read)


@pytest.mark.parametrize(("encoding", "odd"), [("WIN1252", "81"), ("EUC_JP", "fdfe")])
def test_a_ring_with_what_is_no_character_of_utf_8_is_heard(
    io_loop: IOLoop, encoded: str, odd: str
) -> None:
    """It may be the name of a table. Whoever listens would lose the connection by it."""
    bring_up_to_date(encoded)
    text = f"convert_from('\\x61{odd}', getdatabaseencoding())"

    async def ring_and_hear() -> None:
        writer, listener = await Platform.connect(encoded), await Platform.connect(encoded)
        heard: list[str] = []
        listener.connection.hear = lambda _channel, payload: heard.append(payload)
        await listener.execute("SELECT relay.listen()")
        await writer.execute(f"SELECT relay.ring({text})")
        await writer.execute(f"SELECT relay.carry({text}, NULL)")
        await writer.execute(f"SELECT relay.tell('typing', {text})")
        await eventually(lambda: len(heard) == 3)
        assert heard == ["a?"] * 3
        await writer.connection.close()
        await listener.connection.close()

    io_loop.run_sync(ring_and_hear)


@pytest.mark.parametrize("encoding", ["SQL_ASCII"])
def test_a_database_without_an_encoding_is_refused(io_loop: IOLoop, encoded: str) -> None:
    """By the migration, by a server, and by the doctor, with the reason."""
    with pytest.raises(SchemaError, match="SQL_ASCII"):
        bring_up_to_date(encoded)
    with pytest.raises(SchemaError, match="SQL_ASCII"):
        io_loop.run_sync(lambda: read_position(encoded, 10))
    report = io_loop.run_sync(lambda: examine(deployment(encoded)))
    assert report.exit_code == 1
    assert "the encoding SQL_ASCII" in report.text()
    assert "ENCODING 'UTF8'" in report.text()


@pytest.mark.parametrize("encoding", ["MULE_INTERNAL"])
def test_a_database_whose_text_cannot_be_utf_8_is_refused(io_loop: IOLoop, encoded: str) -> None:
    """Nobody can connect who speaks UTF-8, which is no trouble of roles or of the line."""
    with pytest.raises(ReleaseError, match=r"as UTF-8 .* MULE_INTERNAL .*; run CREATE DATABASE"):
        bring_up_to_date(encoded)
    with pytest.raises(asyncpg.FeatureNotSupportedError) as refused:
        io_loop.run_sync(lambda: read_position(encoded, 10))
    assert "MULE_INTERNAL" in why_unreachable(refused.value, encoded)
    report = io_loop.run_sync(lambda: examine(deployment(encoded)))
    assert report.exit_code == 1
    assert "MULE_INTERNAL" in report.text()
    assert "ENCODING 'UTF8'" in report.text()
    assert "pg_hba.conf" not in report.text()
