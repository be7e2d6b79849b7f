"""The statements: each one a change, with what it counts as.

Each may be executed twice, for whoever lost the connection does not know whether it committed. What
refers to a row that somebody deleted fails, with a violation of a foreign key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple
from uuid import UUID

Data = Mapping[str, object]

WORDS: Final = "words"
"""What an answer grows by: counted, but no part of the rate."""


class Act(NamedTuple):
    """One SQL statement of the simulation, and what it counts as."""

    kind: str
    """The kind of change that the statement counts as, as a plural."""
    sql: str
    arguments: tuple[object, ...] = ()


_SAY = """
INSERT INTO messages (bot_id, session_id, id, user_id, role, content, metadata)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"""
_GRANT = """
INSERT INTO permissions (bot_id, user_id, role, granted_by)
VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"""
_UPLOAD = """
INSERT INTO documents (bot_id, id, uploaded_by, filename, mime_type, size_bytes)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING"""
_EMIT = "SELECT relay.emit('bot:' || $1::uuid, $2::text, $3::jsonb, $4::uuid)"
# To the owner of the bot at that time.
_NOTIFY = """
SELECT relay.notify_user(b.owner_id, $2::text, $3::jsonb) FROM bots AS b WHERE b.id = $1::uuid"""


class Place(NamedTuple):
    """The bot and the session of a conversation."""

    bot: UUID
    session: UUID


def ask(place: Place, message: UUID, user: UUID, content: str) -> Act:
    """Insert a user's message."""
    return Act("messages", _SAY, (*place, message, user, "user", content, "{}"))


def answer(place: Place, message: UUID, user: UUID, content: str, metadata: Data) -> Act:
    """The assistant begins to answer that user, or says everything at once."""
    said = json.dumps(metadata)
    return Act("answers", _SAY, (*place, message, user, "assistant", content, said))


def grow(message: UUID, content: str) -> Act:
    """An answer is now that long."""
    return Act(WORDS, "UPDATE messages SET content = $2 WHERE id = $1", (message, content))


def finish(message: UUID, content: str, metadata: Data) -> Act:
    """Update an answer: it is complete."""
    sql = "UPDATE messages SET content = $2, metadata = $3 WHERE id = $1"
    return Act("finished", sql, (message, content, json.dumps(metadata)))


def rate(message: UUID, rating: str) -> Act:
    """Somebody says what they think of an answer."""
    sql = "UPDATE messages SET metadata = metadata || $2 WHERE id = $1"
    return Act("edits", sql, (message, json.dumps({"rating": rating})))


def edit(message: UUID, content: str) -> Act:
    """Update a message that its user corrects."""
    return Act("edits", "UPDATE messages SET content = $2 WHERE id = $1", (message, content))


def unsay(message: UUID) -> Act:
    """Delete a message of a user."""
    return Act("deletions", "DELETE FROM messages WHERE id = $1", (message,))


def grant(bot: UUID, user: UUID, role: str, by: UUID | None) -> Act:
    """Give a user access to a bot."""
    return Act("permissions", _GRANT, (bot, user, role, by))


def change_role(bot: UUID, user: UUID, role: str) -> Act:
    """Somebody may do more than before, or less."""
    sql = "UPDATE permissions SET role = $3 WHERE bot_id = $1 AND user_id = $2"
    return Act("permissions", sql, (bot, user, role))


def revoke(bot: UUID, user: UUID) -> Act:
    """Somebody may no longer watch a bot."""
    sql = "DELETE FROM permissions WHERE bot_id = $1 AND user_id = $2"
    return Act("permissions", sql, (bot, user))


def upload(bot: UUID, document: UUID, user: UUID, filename: str, mime: str, size: int) -> Act:
    """A document is there; `size` is in bytes."""
    return Act("documents", _UPLOAD, (bot, document, user, filename, mime, size))


def process(document: UUID, status: str, error: str | None = None) -> Act:
    """Change the status of a document."""
    sql = "UPDATE documents SET status = $2, error = $3, updated_at = now() WHERE id = $1"
    return Act("documents", sql, (document, status, error))


def discard(document: UUID) -> Act:
    """Delete a document."""
    return Act("documents", "DELETE FROM documents WHERE id = $1", (document,))


def rename(bot: UUID, name: str, by: UUID) -> Act:
    """Give a bot another name."""
    sql = "UPDATE bots SET name = $2, updated_by = $3, updated_at = now() WHERE id = $1"
    return Act("bots", sql, (bot, name, by))


def configure(bot: UUID, config: Data, by: UUID) -> Act:
    """A bot is set another way."""
    sql = "UPDATE bots SET config = config || $2, updated_by = $3, updated_at = now() WHERE id = $1"
    return Act("bots", sql, (bot, json.dumps(config), by))


def hand_over(bot: UUID, owner: UUID, by: UUID) -> Act:
    """Give a bot another owner."""
    sql = "UPDATE bots SET owner_id = $2, updated_by = $3, updated_at = now() WHERE id = $1"
    return Act("bots", sql, (bot, owner, by))


def make_bot(bot: UUID, owner: UUID, name: str, description: str) -> Act:
    """Insert a bot."""
    sql = (
        "INSERT INTO bots (id, owner_id, name, description) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT DO NOTHING"
    )
    return Act("bots", sql, (bot, owner, name, description))


def delete_bot(bot: UUID) -> Act:
    """A bot is gone, with everything that belongs to it."""
    return Act("bots", "DELETE FROM bots WHERE id = $1", (bot,))


def set_active(user: UUID, is_active: bool) -> Act:
    """Somebody's account is switched off, or on again."""
    return Act("users", "UPDATE users SET is_active = $2 WHERE id = $1", (user, is_active))


def emit(bot: UUID, type_: str, data: Data, actor: UUID) -> Act:
    """An event of the platform's own, to everyone who watches the bot."""
    return Act("custom events", _EMIT, (bot, type_, json.dumps(data), actor))


def notify_owner(bot: UUID, type_: str, data: Data) -> Act:
    """A notification for the owner of the bot."""
    return Act("notifications", _NOTIFY, (bot, type_, json.dumps(data)))
