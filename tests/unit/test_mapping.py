"""Mappings: what a platform writes down, over the default one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from realtime.attach.mapping import (
    COLUMNS,
    DELETED_AT,
    EXAMPLE,
    Expression,
    Lookup,
    MappingError,
    PlatformMapping,
    parse,
    read_mapping,
    to_mapping,
)


def mapping(toml: str) -> PlatformMapping:
    return to_mapping(parse(EXAMPLE.read_text("utf-8")), parse(toml))


def test_the_default_names_every_table_and_column() -> None:
    """By the names that they have in the reference tables, which are our keys."""
    default = read_mapping()
    assert {key: table.name for key, table in default.tables.items()} == {
        key: key for key in COLUMNS
    }
    for key, columns in COLUMNS.items():
        assert default.tables[key].columns == {w: w for w in columns if w != DELETED_AT}
        assert default.tables[key].schema == "public"
    assert (default.untold, default.owner_role, default.server_role) == (
        ("updated_at",),
        "owner",
        None,
    )


def test_only_what_is_different_is_written_down() -> None:
    """All else stays as in the default."""
    found = mapping(
        'schema = "app"\ndocuments = false\n[permissions]\ntable = "grants"\nrole = false\n'
        '[users]\nschema = "auth"'
    )
    assert set(found.tables) == {"users", "bots", "permissions", "messages"}
    assert (found.tables["users"].schema, found.tables["bots"].schema) == ("auth", "app")
    assert found.tables["permissions"].name == "grants"
    assert found.column("permissions", "role") is None
    assert found.column("permissions", "user_id") == "user_id"
    assert found.column("documents", "id") is None


def test_owners_alone_may_decide() -> None:
    """Without a table of permissions."""
    found = mapping("permissions = false")
    assert "permissions" not in found.tables
    assert found.owner_role is None


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("[users", "not TOML"),
        ("[user]", r"an unknown key user \(did you mean users\?\): there are users, bots"),
        (
            '[users]\nname = "x"',
            r"unknown key users\.name \(did you mean username\?\): there are table, id",
        ),
        ("users = false", r"users has to be a section of names, \[users\]$"),
        (
            'messages = "messages"',
            r"messages has to be a section .*\[messages\], or messages = false where",
        ),
        ("[messages]\nid = false", r"messages\.id cannot be left out"),
        ("[messages]\ncontent = true", r"messages\.content has to be a name"),
        ("[messages]\ntable = false", r"messages\.table has to be a name"),
        ('[messages]\nrole = ""', r"messages\.role has to be a name"),
        ('[bots]\nuntold = "key"', r"bots\.untold has to be a list"),
        ("[bots]\nuntold = [1]", r"bots\.untold has to be a name"),
        ('[users]\nid = "a$$b"', r"users\.id: a name with \$\$"),
        ('[users]\nid = "a$rows$b"', r"users\.id: a name with \$\$"),
        ("[users]\nid = 'a\\b'", r"users\.id: a name with"),
        ('[users]\nid = "a\\u0000"', r"users\.id: a name with"),
        ('[users]\nid = "a\\nb"', r"users\.id: a name with"),
        (f'[users]\nid = "{"ü" * 64}"', "at most 63 bytes"),
        ('[users]\nid = { sql = "id" }', r"users\.id has to be a column: rows are looked up by it"),
        ('[documents]\nstatus = { sql = " " }', r"documents\.status\.sql has to be an SQL expres"),
        ('[documents]\nstatus = { sql = "$$" }', r"documents\.status\.sql: an expression with"),
        (
            '[documents]\nstatus = { sql = "1", x = 1 }',
            r"unknown key documents\.status\.x: there are",
        ),
        (
            '[messages]\nbot_id = { sql = "b", through = "s", table = "t", column = "c" }',
            "messages.bot_id has both sql and through: write one of them",
        ),
        (
            '[messages]\nbot_id = { through = "s" }',
            r"messages\.bot_id has to be .* table is missing",
        ),
    ],
)
def test_what_cannot_be_is_refused(toml: str, complaint: str) -> None:
    """The key is named, and what to write."""
    with pytest.raises(MappingError, match=complaint):
        mapping(toml)


def test_a_value_may_be_worked_out() -> None:
    """By SQL over the row, or in another table, by its id and in the same schema by default."""
    toml = """
        schema = "chat"
        [messages]
        bot_id = { through = "session_id", table = "sessions", column = "bot" }
        [documents]
        status = { sql = " upper(state) " }
    """
    tables = mapping(toml).tables
    lookup = Lookup("session_id", "chat", "sessions", "id", "bot")
    assert tables["messages"].derived == {"bot_id": lookup}
    assert tables["documents"].derived == {"status": Expression("upper(state)")}
    assert "status" not in tables["documents"].columns


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, or not text."""
    with pytest.raises(
        MappingError, match=r"none\.toml cannot be read: No such file or directory$"
    ):
        read_mapping(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    with pytest.raises(MappingError, match=r"binary\.toml cannot be read"):
        read_mapping(tmp_path / "binary.toml")
    (tmp_path / "own.toml").write_text('[users]\ntable = "people"')
    assert read_mapping(tmp_path / "own.toml").tables["users"].name == "people"
