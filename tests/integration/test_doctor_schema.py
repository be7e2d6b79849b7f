"""The doctor on a schema that is not what it should be, and on roles that lack rights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from realtime.doctor.checkup import examine
from realtime.doctor.report import Level
from realtime.embedded.server import EmbeddedPostgres
from tests.doctor import ask, deployment, finds, said
from tests.platform import Platform

SECURITY = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")
GRANTS = "\n".join(re.findall(r"^```sql\n(.*?)^```", SECURITY, re.MULTILINE | re.DOTALL))
MakeRole = Callable[[str], str]


@pytest.fixture
def make_role(postgres: EmbeddedPostgres, database: str) -> Iterator[MakeRole]:
    """Makes roles of this test's own; they are gone after it, with what they own."""
    made: list[str] = []

    def make(options: str = "LOGIN") -> str:
        name = f"role_{uuid4().hex[:8]}"
        postgres.sql(f"CREATE ROLE {name} {options}")
        made.append(name)
        return name

    yield make
    here = re.search(r"/([^/?]+)\?", database)
    assert here
    for name in made:
        postgres.sql(f"REASSIGN OWNED BY {name} TO postgres", here[1])
        postgres.sql(f"DROP OWNED BY {name}", here[1])
        postgres.sql(f"DROP ROLE {name}")


def as_role(dsn: str, role: str) -> str:
    return re.sub(r"//[^@/]*@", f"//{role}@", dsn)


# Migrations.


@pytest.mark.gen_test
async def test_a_database_that_is_not_migrated(empty_database: str) -> None:
    """Nothing that needs the log is tried; it says what to run."""
    report = await examine(deployment(empty_database))
    text = report.text()
    assert report.exit_code == 1
    assert "it is not migrated" in text
    assert "bin/migrate" in text
    assert {"migrations", "triggers", "full loop"} <= set(report.skipped)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("DROP FUNCTION relay.authorize", "relay.authorize"),
        ("DELETE FROM relay.alembic_version", "not migrated"),
        ("UPDATE relay.alembic_version SET version_num = 'core_9999'", "newer release"),
    ],
)
async def test_half_a_migration_and_another_releases(
    database: str, platform: Platform, damage: str, named: str
) -> None:
    """What is missing is named, and so is a database that is ahead of this code."""
    await finds(Level.FINE, "migrations", deployment(database))
    await platform.execute(damage)
    await finds(Level.PROBLEM, "migrations", deployment(database), named)


@pytest.mark.gen_test
async def test_a_newer_release_that_still_serves_this_one(
    database: str, platform: Platform
) -> None:
    """All is well, and it says whose schema it is."""
    await platform.execute("UPDATE relay.alembic_version SET version_num = 'core_9999'")
    await platform.execute("INSERT INTO relay.releases VALUES ('core_9999', '9.9', 'core_0002')")
    await finds(Level.FINE, "migrations", deployment(database), "core_9999")


# Rights.


def single_grants() -> list[str]:
    """The grants of the security page, one privilege on one thing each."""
    found = []
    for privileges, objects in re.findall(r"GRANT (.*?) ON (.*?)\s+TO relay_server", GRANTS, re.S):
        kind = re.match(r"(SCHEMA|FUNCTION)? ?(.*)", objects, re.S)
        assert kind
        found += [
            f"{privilege} ON {kind[1] or ''} {name}"
            for privilege in privileges.split(", ")
            for name in re.split(r",\s*", kind[2])
        ]
    return found


@pytest.mark.gen_test
async def test_names_of_channels_without_temporary_files(database: str, platform: Platform) -> None:
    """A role may be allowed none."""
    name = urlsplit(database).path[1:]
    for setting in ("work_mem = '64kB'", "temp_file_limit = 0"):
        await platform.execute(f"ALTER DATABASE {name} SET {setting}")
    await finds(Level.FINE, "channels", deployment(database))


@pytest.mark.gen_test
async def test_names_of_channels_that_are_no_secret(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """Who can read them, who could after a dump is restored, and what helps."""
    role = make_role("LOGIN")
    await finds(Level.FINE, "channels", deployment(database))
    await platform.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON SEQUENCES TO {role}")
    for finding in await ask("channels", deployment(database)):
        assert finding.level is Level.WARNING
        assert role in finding.said
        await platform.execute(finding.cure)
    await finds(Level.FINE, "channels", deployment(database))
    await platform.execute(f"GRANT USAGE ON SEQUENCE relay.ring_channel TO {role}, PUBLIC")
    for finding in await ask("channels", deployment(database)):
        assert finding.level is Level.PROBLEM
        await platform.execute(finding.cure.split(";")[0])
    await finds(Level.FINE, "channels", deployment(database))


@pytest.mark.gen_test
async def test_who_else_can_act_as_the_owner(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """Who owns the schema or a table that is read, and who may make functions or triggers."""
    role, other = make_role("LOGIN"), make_role("LOGIN")
    await finds(Level.FINE, "owners", deployment(database), "the owner of relay")
    await platform.execute(
        f"GRANT CREATE ON SCHEMA relay TO PUBLIC, {other};"
        f" GRANT ALL ON relay.floor, relay.nodes TO {role}"
    )
    findings = await ask("owners", deployment(database))
    assert len(findings) == 3
    for finding in findings:
        assert finding.level is Level.PROBLEM
        await platform.execute(finding.cure)
    await finds(Level.FINE, "owners", deployment(database))
    await platform.execute(f"ALTER SCHEMA relay OWNER TO {role}")
    await finds(Level.PROBLEM, "owners", deployment(database), f"{role} owns the schema relay")
    await platform.execute("ALTER SCHEMA relay OWNER TO postgres")
    await platform.execute(f"ALTER TABLE public.bots OWNER TO {role}")
    parts = (f"{role} owns public.bots, and so can act as postgres", "docs/security.md")
    await finds(Level.WARNING, "owners", deployment(database), *parts)
    await platform.execute(f"GRANT postgres TO {role}")
    await finds(Level.FINE, "owners", deployment(database))


@pytest.mark.gen_test
async def test_each_right_of_the_security_page_is_missed(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """With all of them nothing is said; without any one of them, that one."""
    role = make_role("LOGIN")
    there = deployment(as_role(database, role))
    await platform.execute(GRANTS.replace("relay_server", role))
    await finds(Level.FINE, "rights", there)
    grants = single_grants()
    assert len(grants) > 10
    for grant in grants:
        privilege, name = re.sub(r"\s+", " ", grant).split(" ON ")
        await platform.execute(f"REVOKE {grant} FROM {role}")
        await finds(Level.PROBLEM, "rights", there, f"lacks {privilege} on {name.split()[-1]}")
        await platform.execute(f"GRANT {grant} TO {role}")


@pytest.mark.gen_test
async def test_the_cure_of_a_missing_right_is_the_cure(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """A role that may do nothing, and what the doctor says to run: then it may do all."""
    role = make_role("LOGIN")
    there = deployment(as_role(database, role))
    for finding in await ask("rights", there):
        await platform.execute(finding.cure)
    await finds(Level.FINE, "rights", there)
    await finds(Level.FINE, "migrations", there)
    await finds(Level.WARNING, "full loop", there, "may not call relay.emit")


@pytest.mark.gen_test
async def test_the_servers_role_needs_no_right_on_a_schema_of_the_platform(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """Tables that it may not even see are looked for all the same."""
    role = make_role("LOGIN")
    there = deployment(as_role(database, role))
    await platform.execute(GRANTS.replace("relay_server", role))
    await platform.execute("REVOKE USAGE ON SCHEMA public FROM public")
    await finds(Level.FINE, "columns", there, "tables are as the triggers need them")
    await finds(Level.FINE, "rights", there)


@pytest.mark.gen_test
async def test_connections_of_other_roles_count(database: str, make_role: MakeRole) -> None:
    """Also those of which the server's role may see nothing."""
    role = make_role("LOGIN")
    others = [await asyncpg.connect(database) for _ in range(6)]
    try:
        [finding] = await ask("connections", deployment(as_role(database, role)))
    finally:
        for connection in others:
            await connection.close()
    found = re.search(r"of which others hold (\d+)", finding.said)
    assert found is not None
    assert int(found[1]) >= len(others)


@pytest.mark.gen_test
async def test_a_role_that_may_not_look(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """The whole checkup ends, and names the rights; no check stops another."""
    report = await examine(deployment(as_role(database, make_role("LOGIN"))))
    assert report.exit_code == 1
    assert "lacks USAGE on relay" in report.text()
    assert "rights that docs/security.md lists" in report.text()


@pytest.mark.gen_test
async def test_triggers_whose_owner_may_not_write_the_log(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """As after functions were given to another role."""
    role = make_role("NOLOGIN")
    await platform.execute(
        f"GRANT CREATE, USAGE ON SCHEMA relay TO {role};"
        f"GRANT INSERT ON relay.events TO {role};"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA relay TO {role};"
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO {role};"
        f"ALTER FUNCTION relay.messages_inserted OWNER TO {role}"
    )
    await finds(Level.PROBLEM, "rights", deployment(database), f"run as {role}")
    await platform.execute(f"GRANT SELECT ON relay.events TO {role}")
    await finds(Level.FINE, "rights", deployment(database))
    await platform.execute(f"REVOKE EXECUTE ON FUNCTION relay.json_now() FROM {role}")
    await finds(Level.PROBLEM, "rights", deployment(database), f"run as {role}")


@pytest.mark.gen_test
async def test_no_event_can_be_written(database: str, platform: Platform) -> None:
    """The full loop says what the server says."""
    await platform.execute(
        "ALTER TABLE relay.events ADD CONSTRAINT no CHECK (type <> 'doctor_check')"
    )
    await finds(Level.PROBLEM, "full loop", deployment(database), "no event can be written")


# Row security.


@pytest.mark.gen_test
async def test_row_security_that_hides_users(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """From an owner of the functions who is no superuser: nobody could get in."""
    role = make_role("NOLOGIN")
    await platform.execute(
        f"GRANT CREATE, USAGE ON SCHEMA relay TO {role};"
        f"GRANT SELECT ON users, bots, permissions TO {role};"
        f"GRANT EXECUTE ON FUNCTION relay.uuid_or_null TO {role};"
        f"ALTER FUNCTION relay.authenticate OWNER TO {role};"
        f"ALTER FUNCTION relay.authorize OWNER TO {role}"
    )
    user = await platform.user("ada")
    known = "SELECT count(*) FROM relay.authenticate('ada', 'username')"
    await finds(Level.FINE, "row security", deployment(database))
    await platform.execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY")
    assert await platform.connection.fetchval(known) == 0
    await finds(
        Level.PROBLEM,
        "row security",
        deployment(database),
        f"every row of public.users from {role}",
    )
    await platform.execute(f"CREATE POLICY few ON users USING (id <> '{user}')")
    await finds(
        Level.WARNING, "row security", deployment(database), "may hide rows of public.users"
    )
    (finding,) = await ask("row security", deployment(database))
    await platform.execute(finding.cure.split(", or ")[1])  # beside the other: they add up
    assert await platform.connection.fetchval(known) == 1
    await finds(Level.FINE, "row security", deployment(database))
    await platform.execute("CREATE POLICY less ON users AS RESTRICTIVE USING (is_active)")
    await finds(
        Level.WARNING, "row security", deployment(database), "may hide rows of public.users"
    )


@pytest.mark.gen_test
async def test_functions_that_everybody_may_call(database: str, platform: Platform) -> None:
    """As after a restore without the rights of the dump: the cure is what migrations do."""
    await platform.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA relay TO PUBLIC")
    await finds(Level.WARNING, "rights", deployment(database), "may call", "more functions")
    for finding in await ask("rights", deployment(database)):
        await platform.execute(finding.cure)
    await finds(Level.FINE, "rights", deployment(database))
    await platform.execute("GRANT EXECUTE ON FUNCTION relay.eject TO PUBLIC")
    await finds(Level.WARNING, "rights", deployment(database), "may call relay.eject(")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("granted", "may"),
    [
        ("SELECT ON relay.cursor_keys", "forge cursors"),
        ("SELECT ON relay.events", "and so may read all events"),
        ("INSERT ON relay.events_2", "and so may forge some"),
    ],
)
async def test_tables_that_others_may_read_or_write(
    database: str, platform: Platform, make_role: MakeRole, granted: str, may: str
) -> None:
    """Whoever is neither the owner nor the server's role, which may do it."""
    server, other = make_role("LOGIN"), make_role("LOGIN")
    await platform.execute(GRANTS.replace("relay_server", server))
    await finds(Level.FINE, "rights", deployment(database))
    for grantee in ("PUBLIC", other):
        await platform.execute(f"GRANT {granted} TO {grantee}")
        (finding,) = await ask("rights", deployment(database))
        privilege, _, name = granted.split()
        assert finding.level is Level.WARNING
        assert finding.said.startswith(f"{grantee} has {privilege} on {name}, as only the owner")
        assert finding.said.endswith(may)
        await platform.execute(finding.cure.split(";")[0])
    await finds(Level.FINE, "rights", deployment(database))


@pytest.mark.gen_test
async def test_row_security_that_hides_the_log(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """From the server's own role: as hosts do that turn it on for every table."""
    role = make_role("LOGIN")
    await platform.execute(GRANTS.replace("relay_server", role))
    await platform.execute("ALTER TABLE relay.events ENABLE ROW LEVEL SECURITY")
    there = deployment(as_role(database, role))
    await finds(Level.PROBLEM, "row security", there, f"every row of relay.events from {role}")
    await platform.execute(f"GRANT EXECUTE ON FUNCTION relay.emit TO {role}")
    await finds(Level.PROBLEM, "full loop", there, "reading the log does not find it")


# The functions that decide about access.


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE users RENAME TO people",
        "ALTER TABLE permissions RENAME COLUMN user_id TO member",
    ],
)
async def test_tables_that_changed_under_the_functions(
    database: str, platform: Platform, damage: str
) -> None:
    """Every handshake would fail."""
    await finds(Level.FINE, "access", deployment(database))
    await platform.execute(damage)
    await finds(Level.PROBLEM, "access", deployment(database), "relay.authorize fails")


@pytest.mark.gen_test
async def test_an_owner_without_rights_on_the_tables(
    database: str, platform: Platform, make_role: MakeRole
) -> None:
    """The function is there and may be called; what it reads may not be read."""
    role = make_role("NOLOGIN")
    await platform.execute(
        f"GRANT CREATE, USAGE ON SCHEMA relay TO {role};"
        f"ALTER FUNCTION relay.authorize OWNER TO {role}"
    )
    await finds(Level.PROBLEM, "access", deployment(database), "permission denied for table users")


@pytest.mark.gen_test
async def test_a_volatile_function(database: str, platform: Platform) -> None:
    """It would see more than the snapshot that its answer is said to be of."""
    await platform.execute("ALTER FUNCTION relay.authorize VOLATILE")
    (finding,) = await ask("access", deployment(database))
    assert "is VOLATILE" in said([finding])
    await platform.execute(finding.cure)
    await finds(Level.FINE, "access", deployment(database))


@pytest.mark.gen_test
async def test_a_function_that_needs_the_servers_path(database: str, platform: Platform) -> None:
    """Until it sets one of its own; it may be that it cannot do without."""
    own = (
        "CREATE OR REPLACE FUNCTION relay.authorize(user_id uuid, bot_id uuid)"
        " RETURNS TABLE (bot_name text, role text, username text)"
        " LANGUAGE sql STABLE SECURITY DEFINER AS"
        " $$ SELECT b.name, 'guest', '' FROM {bots} AS b WHERE b.id = authorize.bot_id $$"
    )
    await platform.execute(own.format(bots="bots"))
    there = deployment(database)
    (finding,) = await ask("access", there)
    assert finding.level is Level.WARNING
    cure = finding.cure[finding.cure.index("ALTER") : finding.cure.index(";")]
    await platform.execute(cure)
    told = 'relation "bots" does not exist; every handshake would be refused'
    await finds(Level.PROBLEM, "access", there, told)
    await platform.execute(own.format(bots="public.bots") + f"; {cure}")
    await finds(Level.FINE, "access", there)


@pytest.mark.gen_test
async def test_a_database_that_has_only_the_log(core_database: str) -> None:
    """It says so once, and nothing of tables that happen to have the reference tables' names."""
    platform = await Platform.connect(core_database)
    await platform.execute("CREATE TABLE users (id uuid PRIMARY KEY)")
    await platform.connection.close()
    report = await examine(deployment(core_database))
    problems = [line for line in report.lines if line.finding.level is Level.PROBLEM]
    assert [line.check for line in problems] == ["migrations"], report.text()
    assert "run bin/attach --apply" in report.text()
    assert {"access", "triggers", "columns", "full loop"} <= set(report.skipped)
