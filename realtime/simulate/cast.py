"""Who takes part: people, bots, sessions; how their rows are made, kept few, and deleted again.

`scenes` says what they do, and `player` executes the statements. The rows of every run have the
same ids, so that a run goes on with what an earlier one left, or clears it away. The rows are
recognised by their ids, so that nobody else's are touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

from realtime.simulate.acts import Act
from realtime.simulate.corpus import Corpus, Topic

PREFIX: Final = "51a7ed00-0000-4000-8000-"
MAX_MESSAGES: Final = 2000
MAX_DOCUMENTS: Final = 200
SESSIONS_PER_BOT: Final = 3

Kind = Literal["a", "b", "c"]
"""The last group of an id starts with it: users, bots, sessions, as in bin/dev's demo."""


def identity(kind: Kind, number: int) -> UUID:
    """The id of our row of this kind with that number."""
    return UUID(f"{PREFIX}{kind}{number:011x}")


def every(kind: Kind) -> tuple[UUID, UUID]:
    """The first and last id that a row of ours of this kind can have."""
    return identity(kind, 0), identity(kind, 16**11 - 1)


TRIAL_BOT: Final = identity("b", 0)
"""The bot that somebody makes, tries and deletes."""


@dataclass
class Stage:
    """A bot and what goes on there."""

    bot: UUID
    topic: Topic
    sessions: list[UUID]
    members: dict[UUID, str]
    """Who may write there, and their role; not the owner."""
    owner: UUID | None
    """None: the bot and its session are somebody else's, and not ours to change."""
    busy: set[UUID] = field(default_factory=set)
    """The sessions in which somebody is waiting for an answer, or reading it."""


@dataclass(frozen=True)
class Cast:
    """All users, bots and sessions that take part."""

    corpus: Corpus
    people: dict[UUID, str]
    """The username of each user, by user id."""
    stages: list[Stage]
    away: set[UUID] = field(default_factory=set)
    """The users whose account is deactivated."""


def build(
    corpus: Corpus, *, bots: int, people: int, guest_at: tuple[UUID, UUID] | None = None
) -> Cast:
    """A cast, the same each time.

    Args:
        people: at least 3.
        guest_at: a bot and a session of somebody else's, in which they talk as well.
    """
    users = {identity("a", number): corpus.username(number) for number in range(people)}
    stages = [_stage(corpus, list(users), number) for number in range(bots)]
    if guest_at:
        bot, session = guest_at
        members = dict.fromkeys(list(users)[: max(2, people // 2)], "editor")
        stages.insert(0, Stage(bot, corpus.topics[0], [session], members, None))
    return Cast(corpus, users, stages)


def _stage(corpus: Corpus, users: list[UUID], number: int) -> Stage:
    """Of the bot with this number: one owns it, about half of the others may write."""
    start = number % len(users)
    owner, *others = users[start:] + users[:start]
    members = dict.fromkeys(others[: max(1, len(others) // 2)], "editor")
    sessions = [
        identity("c", number * SESSIONS_PER_BOT + index)
        for index in range(min(SESSIONS_PER_BOT, len(members)))
    ]
    # The guide is about this program; the others are what a platform's bots are about.
    topic = corpus.topics[(number + 1) % len(corpus.topics)]
    return Stage(identity("b", number + 1), topic, sessions, members, owner)


def enter(cast: Cast) -> list[Act]:
    """The rows that the cast begins with; those of an earlier run are set back."""
    return [
        *(Act("users", _USER, item) for item in cast.people.items()),
        *(act for stage in cast.stages for act in _set_up(stage)),
    ]


def _set_up(stage: Stage) -> list[Act]:
    topic, bot = stage.topic, stage.bot
    made = [
        Act("permissions", _MEMBER, (bot, user, role, stage.owner))
        for user, role in stage.members.items()
    ]
    if stage.owner is None:
        return made
    opened = [
        Act("sessions", _SESSION, (session, bot, user, topic.description))
        for session, user in zip(stage.sessions, stage.members, strict=False)
    ]
    row = (bot, stage.owner, topic.names[0], topic.description)
    return [Act("bots", _BOT, row), *made, *opened]


def guest_sessions(cast: Cast) -> list[UUID]:
    """Those of somebody else's, in which they talk."""
    return [one for stage in cast.stages if stage.owner is None for one in stage.sessions]


def turn_away(cast: Cast, session: UUID) -> None:
    """A session of somebody else's is gone: they talk elsewhere."""
    cast.stages[:] = [stage for stage in cast.stages if session not in stage.sessions]


def tidy() -> list[Act]:
    """Delete the oldest of what people of the cast wrote and uploaded, beyond some."""
    return [
        Act("deletions", _OLD.format(table="messages", by="user_id"), (*every("a"), MAX_MESSAGES)),
        Act(
            "deletions",
            _OLD.format(table="documents", by="uploaded_by"),
            (*every("a"), MAX_DOCUMENTS),
        ),
    ]


def leave() -> list[Act]:
    """Delete everything that any run has made; what belongs to the rows goes with them."""
    return [
        Act("deletions", "DELETE FROM documents WHERE uploaded_by BETWEEN $1 AND $2", every("a")),
        Act("deletions", "DELETE FROM bots WHERE id BETWEEN $1 AND $2", every("b")),
        Act("deletions", "DELETE FROM users WHERE id BETWEEN $1 AND $2", every("a")),
    ]


_USER: Final = """
INSERT INTO users (id, username) VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET is_active = true WHERE NOT users.is_active"""
_BOT: Final = """
INSERT INTO bots (id, owner_id, name, description) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET owner_id = excluded.owner_id, name = excluded.name
WHERE (bots.owner_id, bots.name) IS DISTINCT FROM (excluded.owner_id, excluded.name)"""
_MEMBER: Final = """
INSERT INTO permissions (bot_id, user_id, role, granted_by)
SELECT b.id, $2::uuid, $3::text, $4::uuid FROM bots AS b WHERE b.id = $1::uuid
ON CONFLICT (bot_id, user_id) DO UPDATE SET role = excluded.role
WHERE permissions.role <> excluded.role"""
_SESSION: Final = """
INSERT INTO sessions (id, bot_id, user_id, title) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"""
_OLD: Final = """
DELETE FROM {table} WHERE id IN (
    SELECT id FROM {table} WHERE {by} BETWEEN $1 AND $2 ORDER BY created_at DESC, id OFFSET $3)"""
