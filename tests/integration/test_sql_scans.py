"""No statement of a writer or of a handshake reads a whole table, which may have a million rows.

Which plan a query inside a function has depends on PostgreSQL's version: 17 and older make one for
any arguments, 18 may make one for each call. So what matters is how many rows were read by scans.
"""

from __future__ import annotations

import pytest

from tests.platform import Platform

ROWS = 3000
FEW = 100
"""So many rows may be read by scans: tables with a few rows have no better way."""
TIMES = 12
"""After five times a session may keep a plan for any arguments."""


def _id(kind: str, number: str) -> str:
    return f"('{kind}0000000-0000-4000-8000-' || lpad(to_hex({number}), 12, '0'))::uuid"


USER, BOT, SESSION, MESSAGE, DOCUMENT = (_id(kind, "n") for kind in "abcde")
FILL = f"""
SET session_replication_role = replica;
CREATE TEMPORARY VIEW numbers AS SELECT n FROM generate_series(1, {ROWS}) AS n;
INSERT INTO users (id, username) SELECT {USER}, 'user-' || n FROM numbers;
INSERT INTO bots (id, name, owner_id) SELECT {BOT}, 'Ada', {USER} FROM numbers;
INSERT INTO permissions (bot_id, user_id, role)
    SELECT {BOT}, {_id("a", f"n % {ROWS} + 1")}, 'viewer' FROM numbers;
INSERT INTO sessions (id, bot_id, user_id) SELECT {SESSION}, {BOT}, {USER} FROM numbers;
INSERT INTO messages (id, session_id, bot_id, user_id, role, content)
    SELECT {MESSAGE}, {SESSION}, {BOT}, {USER}, 'user', 'Hello' FROM numbers;
INSERT INTO documents (id, bot_id, filename) SELECT {DOCUMENT}, {BOT}, 'a.pdf' FROM numbers;
INSERT INTO relay.events (topic, type, payload)
    SELECT 'bot:' || {BOT}, 'chat_message', '{{}}' FROM numbers;
SET session_replication_role = origin;
ANALYZE;
"""
STATEMENTS = {
    "a message": f"""INSERT INTO messages (session_id, bot_id, user_id, role, content)
        VALUES ({_id("c", "7")}, {_id("b", "7")}, {_id("a", "7")}, 'user', 'Hello')""",
    "a message edited": f"UPDATE messages SET content = content || '!' WHERE id = {_id('d', '7')}",
    "a message moved": f"UPDATE messages SET bot_id = {_id('b', '8')} WHERE id = {_id('d', '7')}",
    "a message deleted": f"DELETE FROM messages WHERE id = {_id('d', '7')}",
    "a document": f"INSERT INTO documents (bot_id, filename) VALUES ({_id('b', '7')}, 'b.pdf')",
    "a document done": f"UPDATE documents SET status = 'processed' WHERE id = {_id('e', '7')}",
    "a document deleted": f"DELETE FROM documents WHERE id = {_id('e', '7')}",
    "a permission": f"""INSERT INTO permissions (bot_id, user_id, role)
        VALUES ({_id("b", "7")}, {_id("a", "2000")}, 'editor')""",
    "a role changed": f"UPDATE permissions SET role = 'editor' WHERE bot_id = {_id('b', '7')}",
    "a permission handed over": f"""UPDATE permissions SET user_id = {_id("a", "2000")}
        WHERE bot_id = {_id("b", "7")}""",
    "a permission revoked": f"DELETE FROM permissions WHERE bot_id = {_id('b', '7')}",
    "a bot": f"INSERT INTO bots (name, owner_id) VALUES ('Eve', {_id('a', '7')})",
    "a bot renamed": f"UPDATE bots SET name = name || '!' WHERE id = {_id('b', '7')}",
    "a bot handed over": f"""UPDATE bots SET owner_id = {_id("a", "2000")}
        WHERE id = {_id("b", "7")}""",
    "a bot deleted": f"DELETE FROM bots WHERE id = {_id('b', '7')}",
    "a user": "INSERT INTO users (username) VALUES ('ada')",
    "a user renamed": f"UPDATE users SET username = 'eve' WHERE id = {_id('a', '7')}",
    "a user locked out": f"UPDATE users SET is_active = false WHERE id = {_id('a', '7')}",
    "a user deleted": f"DELETE FROM users WHERE id = {_id('a', '7')}",
    "who by id": f"SELECT relay.authenticate({_id('a', '7')}::text, 'id')",
    "who by username": "SELECT relay.authenticate('user-7', 'username')",
    "whether an owner may": f"SELECT relay.authorize({_id('a', '7')}, {_id('b', '7')})",
    "whether a viewer may": f"SELECT relay.authorize({_id('a', '8')}, {_id('b', '7')})",
    "whether a stranger may": f"SELECT relay.authorize({_id('a', '2000')}, {_id('b', '7')})",
    "a cursor": f"SELECT relay.cursor('bot:' || {_id('b', '7')})",
    "an event of one's own": f"SELECT relay.emit('bot:' || {_id('b', '7')}, 'poll', '{{}}')",
    "a grant": f"SELECT relay.grant({_id('a', '7')}, 'bot:' || {_id('b', '7')})",
    "an ejection": f"SELECT relay.eject({_id('a', '7')}, 'bot:' || {_id('b', '7')})",
}
SCANNED = """
SELECT string_agg(format('%s: %s', relname, seq_tup_read), ', ')
  FROM pg_stat_xact_user_tables
 WHERE seq_tup_read > $1
"""


@pytest.mark.gen_test
async def test_each_statement_reads_rows_by_an_index(platform: Platform) -> None:
    """Again and again in one session, as services do."""
    await platform.connection.execute(FILL)
    scanned: dict[str, str] = {}
    for name, statement in STATEMENTS.items():
        for _ in range(TIMES):
            transaction = platform.connection.transaction()
            await transaction.start()
            await platform.execute(statement)
            found = await platform.connection.fetchval(SCANNED, FEW)
            await transaction.rollback()
            if found:
                scanned[name] = found
    assert scanned == {}
