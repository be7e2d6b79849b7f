"""What is shown is what the table has, whatever triggers a platform has of its own.

Hypothesis makes statements and platform triggers of many kinds: before and after, for rows and for
statements, named before and after the relay's. Two clients apply what is logged. After each
statement they must have what the tables have. And the log must name each user who gained access to
a bot, and cut off each who lost it. `NESTED_EXAMPLES` makes the run longer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tornado.ioloop import IOLoop

from tests.integration.sql_log import Entry, Log, Message
from tests.platform import Platform
from tests.serving import World

BOTS = ["b0000000-0000-0000-0000-00000000000" + n for n in "12"]
USERS = ["a0000000-0000-0000-0000-00000000000" + n for n in "123"]
IDS = ["c0000000-0000-0000-0000-00000000000" + n for n in "123"]
BOT, OTHER_BOT = BOTS
EXAMPLES = int(os.environ.get("NESTED_EXAMPLES", "100"))
REFUSED = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.TriggeredDataChangeViolationError,
    asyncpg.CardinalityViolationError,
    asyncpg.FeatureNotSupportedError,  # not every statement may meet a rule
)
"""What may become of a statement: nothing, and nothing is told."""
DEEPEST = 3
"""At which depth of triggers the platform's own stop."""

# What a trigger of the platform does about a row, by the table that it is of.
ACTS = {
    "messages": {
        "edit": "UPDATE messages SET content = content || '+' WHERE id = r.id",
        "time": "UPDATE messages SET created_at = now() WHERE id = r.id",
        "delete": "DELETE FROM messages WHERE id = r.id",
        "move": "UPDATE messages SET bot_id = other_bot WHERE id = r.id",
        "move back": "UPDATE messages SET bot_id = bot WHERE id = r.id",
        "rename": f"UPDATE messages SET id = '{IDS[2]}' WHERE id = r.id",
        "put back": "INSERT INTO messages (id, session_id, bot_id, user_id, role, content)"
        " VALUES (r.id, r.session_id, r.bot_id, r.user_id, 'user', 'back')"
        " ON CONFLICT (id) DO UPDATE SET content = messages.content || '!'",
        "elsewhere": "INSERT INTO messages (id, session_id, bot_id, user_id, role, content)"
        " VALUES (r.id, r.session_id, other_bot, r.user_id, 'user', 'there')"
        " ON CONFLICT DO NOTHING",
        "all": "UPDATE messages SET content = content || '~'",
    },
    "documents": {
        "fail": "UPDATE documents SET status = 'failed' WHERE id = r.id",
        "delete": "DELETE FROM documents WHERE id = r.id",
        "move": "UPDATE documents SET bot_id = other_bot WHERE id = r.id",
        "put back": "INSERT INTO documents (id, bot_id, filename, status)"
        " VALUES (r.id, r.bot_id, 'back', 'ready') ON CONFLICT (id) DO UPDATE SET status = 'ready'",
    },
    "permissions": {
        "cap": "UPDATE permissions SET role = 'viewer' WHERE id = r.id",
        "promote": "UPDATE permissions SET role = 'owner' WHERE id = r.id",
        "delete": "DELETE FROM permissions WHERE id = r.id",
        "turn": f"UPDATE permissions SET user_id = '{USERS[2]}' WHERE id = r.id",
        "put back": "INSERT INTO permissions (bot_id, user_id, role)"
        " VALUES (r.bot_id, r.user_id, 'editor')"
        " ON CONFLICT (bot_id, user_id) DO UPDATE SET role = 'admin'",
        "own": "UPDATE bots SET owner_id = r.user_id WHERE id = r.bot_id",
    },
    "bots": {
        "name": "UPDATE bots SET name = name || '+' WHERE id = r.id",
        "config": "UPDATE bots SET config = '{\"a\": 1}' WHERE id = r.id",
        "owner": f"UPDATE bots SET owner_id = '{USERS[2]}' WHERE id = r.id",
        "delete": "DELETE FROM bots WHERE id = r.id",
        "put back": "INSERT INTO bots (id, name, owner_id) VALUES (r.id, 'back', r.owner_id)"
        " ON CONFLICT (id) DO UPDATE SET name = bots.name || '!'",
        "drop rows": "DELETE FROM permissions WHERE bot_id = r.id AND role = 'owner'",
        "add row": "INSERT INTO permissions (bot_id, user_id, role)"
        " VALUES (r.id, r.owner_id, 'owner')"
        " ON CONFLICT (bot_id, user_id) DO UPDATE SET role = 'owner'",
        "add lesser row": "INSERT INTO permissions (bot_id, user_id, role)"
        " VALUES (r.id, r.owner_id, 'admin') ON CONFLICT DO NOTHING",
    },
}
_INSERT_MESSAGE = (
    "INSERT INTO messages (id, session_id, bot_id, user_id, role, content)"
    f" SELECT v.id::uuid, s.id, '{BOT}', '{USERS[0]}', 'user', 'new' FROM sessions AS s,"
    f" (VALUES ('{IDS[0]}'), ('{IDS[1]}')) AS v (id) LIMIT 2"
)
_TRANSFER = f"UPDATE bots SET owner_id = '{USERS[1]}'"
_GIVE = f"UPDATE bots SET owner_id = '{USERS[2]}'"
_DROP_OWNER = "DELETE FROM permissions WHERE role = 'owner'"
_ADD_OWNER = (
    f"INSERT INTO permissions (bot_id, user_id, role) VALUES ('{BOT}', '{USERS[1]}', 'owner')"
    " ON CONFLICT (bot_id, user_id) DO UPDATE SET role = 'owner'"
)
_ADD_ADMIN = (
    f"INSERT INTO permissions (bot_id, user_id, role) VALUES ('{BOT}', '{USERS[2]}', 'admin')"
)
STATEMENTS = {
    "messages": [
        _INSERT_MESSAGE,
        f"{_INSERT_MESSAGE} ON CONFLICT (id) DO UPDATE SET content = 'upserted'",
        f"{_INSERT_MESSAGE} ON CONFLICT (id) DO UPDATE SET content = 'x' RETURNING touch(id)",
        f"{_INSERT_MESSAGE} RETURNING touch(id)",
        "UPDATE messages SET content = 'changed'",
        "UPDATE messages SET content = content || '.' RETURNING touch(id)",
        f"UPDATE messages SET bot_id = '{OTHER_BOT}'",
        f"UPDATE messages SET id = '{IDS[1]}' WHERE id = '{IDS[0]}'",
        "DELETE FROM messages",
        f"DELETE FROM messages WHERE id = '{IDS[0]}' RETURNING touch('{IDS[1]}')",
        "WITH d AS (DELETE FROM messages RETURNING *) INSERT INTO messages SELECT * FROM d",
        "WITH d AS (DELETE FROM messages RETURNING *), i AS (INSERT INTO messages"
        " SELECT * FROM d RETURNING id) UPDATE documents SET status = 'ready' FROM i",
        "MERGE INTO messages AS m USING sessions AS s ON m.session_id = s.id"
        " WHEN MATCHED AND m.content LIKE '%+' THEN DELETE"
        " WHEN MATCHED THEN UPDATE SET content = m.content || 'm'"
        f" WHEN NOT MATCHED THEN INSERT VALUES ('{IDS[0]}', s.id, '{BOT}', '{USERS[0]}', 'user')",
        "UPDATE messages SET content = 'one'; UPDATE messages SET content = 'two'",
    ],
    "documents": [
        f"INSERT INTO documents (id, bot_id, filename) VALUES ('{IDS[0]}', '{BOT}', 'f')"
        " ON CONFLICT (id) DO UPDATE SET status = 'ready'",
        "UPDATE documents SET status = 'processing'",
        f"UPDATE documents SET bot_id = '{OTHER_BOT}'",
        "DELETE FROM documents",
    ],
    "permissions": [
        _ADD_OWNER,
        _DROP_OWNER,
        f"{_DROP_OWNER}; {_ADD_OWNER}; {_TRANSFER}",
        f"{_TRANSFER}; {_ADD_OWNER}; {_DROP_OWNER} AND user_id <> '{USERS[1]}'",
        _ADD_ADMIN,
        "UPDATE permissions SET role = 'editor'",
        f"UPDATE permissions SET user_id = '{USERS[1]}' WHERE role = 'owner'",
        "DELETE FROM permissions",
        f"WITH b AS ({_TRANSFER}) UPDATE permissions SET user_id = '{USERS[1]}'"
        " WHERE role = 'owner'",
        f"WITH b AS ({_TRANSFER}), p AS ({_DROP_OWNER}) {_ADD_OWNER}",
        f"WITH b AS ({_GIVE}) {_ADD_ADMIN}",
        f"WITH p AS ({_ADD_ADMIN}) {_GIVE}",
        f"WITH b AS ({_TRANSFER}), d AS (DELETE FROM permissions) {_ADD_ADMIN}",
    ],
    "bots": [
        "UPDATE bots SET name = 'changed'",
        "UPDATE bots SET name = name || '.', config = '{}', description = 'd'",
        _TRANSFER,
        f"UPDATE bots SET owner_id = '{USERS[0]}'",
        f"DELETE FROM bots WHERE id = '{BOT}'",
    ],
}
TOUCH = """
CREATE FUNCTION touch(_id uuid) RETURNS uuid LANGUAGE plpgsql AS $$
BEGIN
    UPDATE messages SET content = content || 't' WHERE id = _id;
    RETURN _id;
END $$
"""
_ACT = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    r {table};
    bot uuid := '{bot}';
    other_bot uuid := '{other_bot}';
BEGIN
    IF TG_LEVEL = 'STATEMENT' THEN
        SELECT * INTO r FROM {table} LIMIT 1;
    ELSE
        r := coalesce(NEW, OLD);
    END IF;
    IF pg_trigger_depth() < {deepest} THEN
        {act};
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER {name} {timing} {event} ON {table} FOR EACH {level} EXECUTE FUNCTION {name}()
"""


RULES = {
    "messages": [
        "ON UPDATE TO messages DO ALSO UPDATE documents SET status = 'by rule'",
        "ON DELETE TO messages DO ALSO UPDATE documents SET bot_id = '" + OTHER_BOT + "'",
        "ON INSERT TO messages DO ALSO UPDATE messages SET content = 'by rule' WHERE id = NEW.id",
    ],
    "documents": ["ON UPDATE TO documents DO ALSO UPDATE messages SET role = 'system'"],
    "permissions": [
        "ON DELETE TO permissions DO ALSO UPDATE bots SET name = 'by rule' WHERE id = OLD.bot_id"
    ],
    "bots": [
        "ON UPDATE TO bots DO ALSO UPDATE permissions SET role = 'admin' WHERE bot_id = NEW.id"
    ],
}
"""Of the platform's, which make more statements of one."""


@dataclass(frozen=True)
class OwnTrigger:
    """One of the platform's."""

    table: str
    act: str
    event: str
    timing: str = "AFTER"
    level: str = "ROW"
    is_first: bool = True

    def sql(self, number: int) -> str:
        return _ACT.format(
            name=f"{'a' if self.is_first else 'z'}_{number}",
            table=self.table,
            act=ACTS[self.table][self.act],
            event=self.event,
            timing=self.timing,
            level=self.level,
            bot=BOT,
            other_bot=OTHER_BOT,
            deepest=DEEPEST,
        )


@st.composite
def own_triggers(draw: st.DrawFn, tables: list[str]) -> OwnTrigger:
    table = draw(st.sampled_from(tables))
    return OwnTrigger(
        table,
        draw(st.sampled_from(sorted(ACTS[table]))),
        draw(st.sampled_from(["INSERT", "UPDATE", "DELETE"])),
        draw(st.sampled_from(["AFTER", "AFTER", "AFTER", "BEFORE"])),
        draw(st.sampled_from(["ROW", "ROW", "STATEMENT"])),
        draw(st.booleans()),
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[OwnTrigger], list[str]]:
    """Triggers and statements of one or two tables, so that they meet; sometimes a rule."""
    tables = draw(st.lists(st.sampled_from(sorted(ACTS)), min_size=1, max_size=2, unique=True))
    statements = [one for table in tables for one in STATEMENTS[table]]
    rules = [f"CREATE RULE own AS {one}" for table in tables for one in RULES[table]]
    first = [draw(st.sampled_from(rules))] if draw(st.integers(0, 3)) == 0 else []
    return (
        draw(st.lists(own_triggers(tables), max_size=4)),
        first + draw(st.lists(st.sampled_from(statements), min_size=1, max_size=5)),
    )


@dataclass
class Client:
    """Applies events in order, as they come on the topics of all bots."""

    knows_once: bool
    """Whether a chat_message of a message that is known is taken for a repetition."""
    messages: dict[tuple[str, str], Any] = field(default_factory=dict)
    documents: dict[tuple[str, str], Any] = field(default_factory=dict)
    roles: dict[tuple[str, str], str] = field(default_factory=dict)
    bots: dict[str, dict[str, Any]] = field(default_factory=dict)

    def apply(self, kind: str, message: Message) -> None:
        bot, data = message["bot_id"], message["data"]
        if kind == "eject" and message["type"] == "bot_update":
            self._leave(bot)
        elif kind in ("eject", "recheck"):
            return
        elif bot in self.bots:
            handlers: dict[str, Callable[[str, Any], None]] = {
                "chat_message": self._chat_message,
                "chat_message_update": self._chat_message_update,
                "document_update": self._document_update,
                "permission_change": self._permission_change,
                "bot_update": lambda bot, data: self.bots[bot].update(data["details"]),
            }
            handlers[message["type"]](bot, data)

    def _leave(self, bot: str) -> None:
        self.bots.pop(bot, None)
        for kept in (self.messages, self.documents, self.roles):
            for key in [key for key in kept if key[0] == bot]:
                del kept[key]

    def _chat_message(self, bot: str, data: Any) -> None:
        key = bot, data["message_id"]
        if not (self.knows_once and key in self.messages):
            self.messages[key] = told(data)

    def _chat_message_update(self, bot: str, data: Any) -> None:
        key = bot, data["message_id"]
        if data["action"] == "deleted":
            self.messages.pop(key, None)
        elif key in self.messages:
            self.messages[key] = told(data)

    def _document_update(self, bot: str, data: Any) -> None:
        key = bot, data["document"]["id"]
        if data["action"] == "deleted":
            self.documents.pop(key, None)
        elif data["action"] == "uploaded" or key in self.documents:
            self.documents[key] = data["document"]["status"]

    def _permission_change(self, bot: str, data: Any) -> None:
        key = bot, data["target_user_id"]
        if data["action"] == "revoked":
            self.roles.pop(key, None)
        elif data["action"] == "granted" or key in self.roles:
            is_owner = data["details"]["role"] == "owner"
            self.roles[key] = "owner" if is_owner else data["details"]["role"]


def told(data: Any) -> tuple[str, str, Any]:
    return data["content"], data["role"], data["metadata"]


async def load(connection: asyncpg.Connection[asyncpg.Record], client: Client) -> None:
    """What the tables have, for those bots that the client is connected to."""
    rows = connection.fetch
    for row in await rows("SELECT id::text, name, description, config, owner_id::text FROM bots"):
        client.bots[row["id"]] = dict(row) | {"config": json.loads(row["config"])}
        del client.bots[row["id"]]["id"]
    for row in await rows("SELECT bot_id::text, id::text, content, role, metadata FROM messages"):
        client.messages[row[0], row[1]] = (row[2], row[3], json.loads(row[4]))
    for row in await rows("SELECT bot_id::text, id::text, status FROM documents"):
        client.documents[row[0], row[1]] = row[2]
    for row in await rows(
        "SELECT b.id::text, u.id::text, r.role FROM bots AS b, users AS u,"
        " relay.authorize(u.id, b.id) AS r"
    ):
        client.roles[row[0], row[1]] = row[2]


async def check(platform: Platform, clients: list[Client], log: Log, seen: str) -> None:
    entries, had = await log.entries(), set(clients[0].roles)
    for entry in entries:
        for client in clients:
            if entry.message is not None and (entry.topic or "").startswith("bot:"):
                client.apply(entry.type, entry.message)
    expected = Client(knows_once=False)
    await load(platform.connection, expected)
    for bot in expected.bots.keys() - clients[0].bots.keys():
        expected._leave(bot)  # a bot that nobody is connected to
    for client in clients:
        assert client == Client(client.knows_once, **vars_of(expected)), seen
    for bot, user in expected.roles.keys() - had:
        assert any(is_about(entry, bot, user) and gives(entry) for entry in entries), seen
    for bot, user in had - expected.roles.keys():
        assert any(is_about(entry, bot, user) and entry.code for entry in entries), seen


def is_about(entry: Entry, bot: str, user: str) -> bool:
    return entry.topic in (None, f"bot:{bot}") and entry.user_id in (None, user)


def gives(entry: Entry) -> bool:
    """Whether it names somebody as one who gained access."""
    return entry.code is None and entry.user_id is not None


def vars_of(client: Client) -> dict[str, Any]:
    return {name: getattr(client, name) for name in ("messages", "documents", "roles", "bots")}


async def set_up(platform: Platform, world: World) -> None:
    await platform.execute("DELETE FROM bots")
    await platform.execute(TOUCH)
    for number, user in enumerate(USERS):
        await platform.execute("INSERT INTO users VALUES ($1, $2)", user, f"user {number}")
    for bot in BOTS:
        await platform.execute("INSERT INTO bots VALUES ($1, 'Ada', NULL, $2)", bot, USERS[0])
    session = await platform.session(BOT, USERS[0])
    await platform.execute(
        "INSERT INTO messages VALUES ($1, $2, $3, $4, 'user', 'hello')",
        *(IDS[0], session, BOT, USERS[0]),
    )
    await platform.execute(
        "INSERT INTO documents (id, bot_id, filename) VALUES ($1, $2, '')", IDS[0], BOT
    )
    await platform.permit(BOT, USERS[0], "owner")
    await platform.permit(OTHER_BOT, USERS[1], "viewer")
    assert world.bot


async def play(
    platform: Platform, world: World, triggers: list[OwnTrigger], statements: list[str]
) -> None:
    transaction = platform.connection.transaction()
    await transaction.start()
    try:
        await set_up(platform, world)
        clients = [Client(knows_once=True), Client(knows_once=False)]
        for client in clients:
            await load(platform.connection, client)
        for number, trigger in enumerate(triggers):
            await platform.execute(trigger.sql(number))
        log = await Log.since_now(platform)
        for statement in statements:
            await platform.execute("SAVEPOINT here")
            try:
                await platform.execute(statement)
            except REFUSED:
                await platform.execute("ROLLBACK TO here")
            await check(platform, clients, log, statement)
    finally:
        await transaction.rollback()


FOUND = [
    ([OwnTrigger("messages", "edit", "INSERT")], [f"{_INSERT_MESSAGE} ON CONFLICT DO NOTHING"]),
    ([OwnTrigger("messages", "delete", "INSERT")], ["DELETE FROM messages", _INSERT_MESSAGE]),
    ([OwnTrigger("messages", "put back", "DELETE")], ["DELETE FROM messages"]),
    ([OwnTrigger("permissions", "cap", "INSERT")], [_ADD_ADMIN]),
    ([OwnTrigger("permissions", "promote", "INSERT")], [_ADD_ADMIN]),
    ([OwnTrigger("bots", "name", "UPDATE")], ["UPDATE bots SET name = 'changed'"]),
    (
        [OwnTrigger("documents", "fail", "INSERT")],
        ["DELETE FROM documents", STATEMENTS["documents"][0]],
    ),
    ([], [f"WITH b AS ({_GIVE}) {_ADD_ADMIN}"]),
    ([OwnTrigger("bots", "add lesser row", "UPDATE")], [_TRANSFER]),
    (
        [
            OwnTrigger("permissions", "own", "INSERT", is_first=False),
            OwnTrigger("permissions", "delete", "INSERT", is_first=False),
        ],
        [_ADD_OWNER],
    ),
]
"""Histories after which clients had something else, one for each kind of event."""


def with_examples(test: Callable[..., None]) -> Callable[..., None]:
    for history in FOUND:
        test = example(history)(test)
    return test


@with_examples
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(histories())
def test_clients_have_what_the_tables_have(
    io_loop: IOLoop,
    platform: Platform,
    world: World,
    history: tuple[list[OwnTrigger], list[str]],
) -> None:
    """After each statement, for messages, documents, permissions and bots."""
    io_loop.run_sync(lambda: play(platform, world, *history))
