"""The reference tables, typed, for `alembic check` and for applications that use SQLAlchemy.

The files `sql/*/reference/tables.sql` make them; nothing here reaches a database by itself.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import BigInteger, DateTime, Text

Id = Annotated[uuid.UUID, mapped_column(primary_key=True, server_default=func.gen_random_uuid())]
Json = Annotated[dict[str, Any], mapped_column(server_default=text("'{}'::jsonb"))]
Time = Annotated[datetime, mapped_column(server_default=func.now())]
UserId = Annotated[uuid.UUID, mapped_column(ForeignKey("users.id", ondelete="CASCADE"))]
BotId = Annotated[uuid.UUID, mapped_column(ForeignKey("bots.id", ondelete="CASCADE"))]
SessionId = Annotated[uuid.UUID, mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))]
FormerUserId = Annotated[
    uuid.UUID | None, mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
]


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own way to declare it
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


class User(Base):
    __tablename__ = "users"

    id: Mapped[Id]
    username: Mapped[str] = mapped_column(unique=True)
    email: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[Time]


class Bot(Base):
    __tablename__ = "bots"
    __table_args__ = (Index("bots_owner_id", "owner_id"), Index("bots_updated_by", "updated_by"))

    id: Mapped[Id]
    name: Mapped[str]
    description: Mapped[str | None]
    owner_id: Mapped[UserId]
    config: Mapped[Json]
    updated_by: Mapped[FormerUserId]
    created_at: Mapped[Time]
    updated_at: Mapped[Time]


class Permission(Base):
    __tablename__ = "permissions"
    __table_args__ = (
        UniqueConstraint("bot_id", "user_id"),
        CheckConstraint("role IN ('viewer', 'editor', 'admin', 'owner')"),
        Index("permissions_user_id", "user_id"),
        Index("permissions_granted_by", "granted_by"),
    )

    id: Mapped[Id]
    bot_id: Mapped[BotId]
    user_id: Mapped[UserId]
    role: Mapped[str]
    granted_by: Mapped[FormerUserId]
    granted_at: Mapped[Time]


class Session(Base):
    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_bot_id", "bot_id"), Index("sessions_user_id", "user_id"))

    id: Mapped[Id]
    bot_id: Mapped[BotId]
    user_id: Mapped[UserId]
    title: Mapped[str | None]
    created_at: Mapped[Time]


class Message(Base):
    __tablename__ = "messages"
    __table_args__ = (
        CheckConstraint("role IN ('user', 'assistant', 'system')"),
        Index("messages_session_id", "session_id", "created_at"),
        Index("messages_bot_id", "bot_id"),
        Index("messages_user_id", "user_id"),
    )

    id: Mapped[Id]
    session_id: Mapped[SessionId]
    bot_id: Mapped[BotId]
    user_id: Mapped[UserId]
    role: Mapped[str]
    content: Mapped[str]
    # "metadata" is a name that SQLAlchemy keeps for itself.
    details: Mapped[Json] = mapped_column("metadata")
    created_at: Mapped[Time]


class Document(Base):
    __tablename__ = "documents"
    __table_args__ = (
        CheckConstraint("status IN ('uploaded', 'processing', 'processed', 'failed')"),
        Index("documents_bot_id", "bot_id"),
        Index("documents_uploaded_by", "uploaded_by"),
    )

    id: Mapped[Id]
    bot_id: Mapped[BotId]
    uploaded_by: Mapped[FormerUserId]
    filename: Mapped[str]
    mime_type: Mapped[str | None]
    size_bytes: Mapped[int | None]
    status: Mapped[str] = mapped_column(server_default=text("'uploaded'"))
    error: Mapped[str | None]
    created_at: Mapped[Time]
    updated_at: Mapped[Time]
