"""The documents are held against the code: what they list, name, link to and tell people to run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from realtime.config.settings import Settings, settings_table
from realtime.relay.closing import CloseCode
from realtime.relay.errors import ErrorCode
from realtime.relay.resume import GapReason
from tests.platform import Platform
from tests.serving import RunningServer, World, make_settings
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text("utf-8")
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
DEMO = ROOT / "realtime" / "dev" / "demo.sql"


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def first_column(text: str, heading: str) -> list[str]:
    """The first cells of the table whose first heading that is, without their code marks."""
    table = re.search(rf"^\| {heading} \|.*\n\|[ |-]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table, heading
    return [row.split("|")[1].strip().strip("`") for row in table[1].splitlines()]


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(links: Iterable[str], document: Path) -> list[str]:
    """Those relative links that lead nowhere."""
    found = []
    for link in links:
        path, anchor = urlsplit(link).path, urlsplit(link).fragment
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            found.append(link)
    return found


def test_the_settings_table_is_the_settings() -> None:
    """Name by name, default by default, letter for letter."""
    assert settings_table() in README


def test_settings_that_nothing_uses_are_named() -> None:
    """A setting that does nothing yet is said to, and one that does is not."""
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "realtime").rglob("*.py"))
    unused = {
        name.upper()
        for name in Settings.model_fields
        if not re.search(rf"settings\.{name}\b", code)
    }
    said = re.search(r"^Not in use yet: (.*?)\n\n", README, re.MULTILINE | re.DOTALL)
    assert {*re.findall(r"`([A-Z_]+)`", said[1] if said else "")} == unused


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Files and headings that a document refers to are there."""
    text = document.read_text("utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r"^\[.+\]: (\S+)$", text, re.MULTILINE
    )
    assert broken((link for link in links if "://" not in link), document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_named_is_there(document: Path) -> None:
    """Commands, tests and files of this project."""
    text = document.read_text("utf-8")
    paths = re.findall(r"`((?:bin|tests|docs|migrations|realtime)/[\w./]+)[` ]", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", text))
    assert [name for name in names if f"def {name}(" not in tests] == []


def test_every_command_is_described() -> None:
    """In the README's table, each once."""
    described = [name.split()[0] for name in first_column(README, "command")]
    commands = [path for path in (ROOT / "bin").iterdir() if not path.name.startswith("_")]
    assert sorted(described) == sorted(f"bin/{path.name}" for path in commands)


def test_the_protocol_lists_every_code_and_reason() -> None:
    """Close codes, error codes and why a client was not recovered."""
    closes = [int(code) for cell in first_column(PROTOCOL, "code") for code in cell.split(" / ")]
    assert closes == sorted(CloseCode)
    assert first_column(PROTOCOL, "`code`") == list(ErrorCode)
    assert first_column(PROTOCOL, "`reason`") == list(GapReason)


@pytest.mark.gen_test
async def test_the_protocol_names_every_type(platform: Platform) -> None:
    """Those that `relay.emit` refuses are those that the protocol has."""
    types = await platform.connection.fetchval("SELECT relay.protocol_types()")
    assert [
        name for name in types if f"`{name}`" not in PROTOCOL and f'"{name}"' not in PROTOCOL
    ] == []


@pytest.mark.gen_test
async def test_the_sql_of_the_readme_runs(platform: Platform) -> None:
    """On what `bin/dev` makes, in the order in which it stands there."""
    await platform.execute(DEMO.read_text("utf-8"))
    blocks = code_blocks(README, "sql")
    assert len(blocks) >= 4
    for block in blocks:
        await platform.execute(block)
    assert await platform.connection.fetchval("SELECT count(*) FROM messages") == 1010
    assert await platform.connection.fetchval("SELECT name FROM bots") == "Renamed bot"


def test_the_sql_of_the_readme_changes_named_rows() -> None:
    """Somebody pastes it into a database that has more than the demo."""
    statements = [one for block in code_blocks(README, "sql") for one in block.split(";\n")]
    changes = [one for one in statements if re.search(r"^(UPDATE|DELETE)\b", one, re.MULTILINE)]
    assert len(changes) == 2
    assert [one for one in changes if "WHERE" not in one] == []
    loads = [one for one in statements if "FROM sessions" in one]
    assert len(loads) == 2
    assert [one for one in loads if "WHERE s.id = '" not in one] == []


@pytest.mark.gen_test
async def test_the_rights_of_the_security_page_are_enough(
    platform: Platform, world: World, database: str
) -> None:
    """A server in that role lets people in, relays, resumes, measures and empties the log."""
    await platform.execute("CREATE ROLE relay_server LOGIN")
    try:
        for block in code_blocks(SECURITY, "sql"):
            await platform.execute(block)
        dsn = re.sub(r"//[^@/]*@", "//relay_server@", database)
        server = RunningServer(make_settings(dsn))
        await server.start()
        try:
            await relays(server, platform, world)
        finally:
            await server.stop()
    finally:
        await platform.execute("DROP OWNED BY relay_server; DROP ROLE relay_server")


async def relays(server: RunningServer, platform: Platform, world: World) -> None:
    guest = await server.chat(world.bot, world.guest)
    await platform.message(world.session, world.bot, world.owner, "live")
    cursor = (await guest.next("chat_message"))["cursor"]
    await platform.execute("SELECT setval('relay.current_slot', 1)")
    await platform.message(world.session, world.bot, world.owner, "missed")
    back = await server.chat(world.bot, world.guest, cursor=cursor)
    # What was sent ahead of a read may come once more.
    await eventually(
        lambda: [one["data"]["content"] for one in back.of_type("chat_message")][-1:] == ["missed"]
    )
    assert (await server.server.web.metrics.of_cluster()).log is not None
    await platform.execute(
        "UPDATE relay.snapshots SET recorded_at = recorded_at - interval '1 day'"
    )
    await platform.execute(
        "INSERT INTO relay.snapshots (recorded_at) VALUES (now() - interval '2 hours')"
    )
    await server.server.database.retention.step()
    assert await platform.connection.fetchval("SELECT count(*) FROM relay.events_0") == 0
