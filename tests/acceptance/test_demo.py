"""The demo's API: what the console of `bin/dev` may ask, and who else may not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from playwright.async_api import expect
from tornado.httpclient import AsyncHTTPClient

from realtime.config.settings import Settings
from realtime.dev.command import SERVICE_ROLE
from realtime.dev.platform import DemoTables
from tests.acceptance.console import DESKTOP, Chromium, sees
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import eventually

if TYPE_CHECKING:
    from playwright.async_api import Page, Route

pytestmark = pytest.mark.gen_test


async def ask(
    server: RunningServer, path: str, body: Any = None, *, user: str = "", **headers: str
) -> tuple[int, Any]:
    """As the console's page does; a body makes it a POST."""
    ours = {"Origin": f"http://{server.base}"} if body is not None else {}
    signed = {"Authorization": f"Bearer {token(user, is_admin=True)}"} if user else {}
    answer = await AsyncHTTPClient().fetch(
        f"http://{server.base}/demo{path}",
        method="GET" if body is None else "POST",
        body=None if body is None else json.dumps(body),
        headers=ours | signed | headers,
        raise_error=False,
    )
    return answer.code, json.loads(answer.body)


async def test_history_and_stream_have_each_message_once(
    demo_server: RunningServer, platform: Platform, world: World
) -> None:
    """A message that is posted is in the history or follows its cursor, never both."""
    messages = f"/bots/{world.bot}/messages"
    assert (await ask(demo_server, messages, {"content": "one"}, user=world.guest))[0] == 201
    _, history = await ask(demo_server, messages, user=world.owner)
    assert [one["content"] for one in history["messages"]] == ["one"]
    assert history["messages"][0]["username"] == "gus"
    await ask(demo_server, messages, {"content": "two"}, user=world.owner)
    socket = await demo_server.chat(world.bot, world.owner, cursor=history["cursor"])
    await socket.next("chat_message")
    await socket.caught_up()
    assert [one["data"]["content"] for one in socket.of_type("chat_message")] == ["two"]
    stranger = await ask(demo_server, messages, user=await platform.user())
    assert stranger == (403, {"error": "bot not found or access denied"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "chat.example.org"},
        {"Host": "127.0.0.1.example.org"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=lambda headers: "-".join(headers.values()),
)
async def test_other_pages_get_nothing(
    demo_server: RunningServer, world: World, headers: dict[str, str]
) -> None:
    """Neither those of another origin, nor those whose name only leads to this machine."""
    found = await ask(demo_server, "", **headers)
    assert found == (200, {"sends": False, "runs": False, "people": []})
    for path, body in [("/sign-in", {"name": "ada"}), ("/sql", {"statements": ["SELECT 1"]})]:
        assert (await ask(demo_server, path, body, user=world.owner, **headers))[0] == 403


async def test_a_host_that_cannot_be_read_is_nobodys(demo_server: RunningServer) -> None:
    """It is refused as others are, and is no error of the server's."""
    assert (await ask(demo_server, "/sign-in", {"name": "ada"}, Host="[::1"))[0] == 403


@pytest.mark.parametrize("text", ["", "-- a comment", "\ud800", "\0", "SELECT '"])
async def test_text_that_is_no_statement_is_refused(
    demo_server: RunningServer, world: World, text: str
) -> None:
    """With the reason."""
    status, body = await ask(demo_server, "/sql", {"statements": [text]}, user=world.guest)
    assert (status, sorted(body)) == (400, ["error", "results"])


async def test_json_that_is_nested_too_deeply_is_refused(demo_server: RunningServer) -> None:
    """As other bodies are that are no object."""
    answer = await AsyncHTTPClient().fetch(
        f"http://{demo_server.base}/demo/sign-in",
        method="POST",
        body="[" * 50_000,
        headers={"Origin": f"http://{demo_server.base}"},
        raise_error=False,
    )
    assert answer.code == 400


async def test_without_a_demo_there_is_nothing_to_ask(
    console_server: RunningServer, world: World
) -> None:
    """A server with CONSOLE alone signs nobody in."""
    assert (await ask(console_server, ""))[1]["sends"] is False
    assert (await ask(console_server, "/sign-in", {"name": "ada"}))[0] == 404
    assert (await ask(console_server, f"/bots/{world.bot}/messages", user=world.owner))[0] == 404


async def test_sql_runs_with_the_rights_of_a_service(
    demo_server: RunningServer, platform: Platform, world: World
) -> None:
    """Statement by statement; what a service may not, and what is not its own again, is refused."""
    await platform.message(world.session, world.bot, world.owner, "old")
    run = [
        "UPDATE messages SET content = 'new'",
        f"SELECT relay.emit('bot:{world.bot}', 'x', '{{}}')",
    ]
    done = await ask(demo_server, "/sql", {"statements": run}, user=world.guest)
    assert done == (200, {"results": ["UPDATE 1", "SELECT 1"]})
    for forbidden in (
        "DROP TABLE messages",
        "SELECT * FROM relay.cursor_keys",
        "SET ROLE postgres",
    ):
        status, body = await ask(
            demo_server, "/sql", {"statements": ["RESET ROLE", forbidden]}, user=world.guest
        )
        assert status == 400, forbidden
        assert body["error"].startswith("PostgreSQL says: "), forbidden
        assert body["results"] == ["RESET"], "what was committed before it"


async def test_an_administrator_acts_by_the_contract(
    demo_server: RunningServer, world: World
) -> None:
    """A test event arrives; an ejected person's sockets are closed; others may not act."""
    guest = await demo_server.chat(world.bot, world.guest)
    wanted = {"user_id": world.guest, "bot_id": world.bot}
    await ask(demo_server, "/actions", {"action": "try_event", **wanted}, user=world.owner)
    await guest.next("console_test")
    await ask(demo_server, "/actions", {"action": "eject", **wanted}, user=world.owner)
    assert await guest.closed() == 1013, "for access is still given"
    plain = {"Authorization": f"Bearer {token(world.guest)}"}
    refused = await ask(demo_server, "/actions", {"action": "eject", **wanted}, **plain)
    assert refused[0] == 403


async def open_demo(chromium: Chromium, server: RunningServer, world: World) -> Page:
    page = await chromium.page(viewport=DESKTOP)
    signed = token(world.owner, is_admin=True)
    await page.goto(server.url("/", bot=world.bot, token=signed))
    await sees(page, "#state-word", "Live")
    return page


@pytest.mark.browser
async def test_the_console_sends_runs_and_remembers(
    chromium: Chromium, demo_server: RunningServer, world: World
) -> None:
    """What was typed is sent, what SQL it shows is run, and after a reload all of it is there."""
    page = await open_demo(chromium, demo_server, world)
    text = 'It\'s "quoted"; $$ <b>'
    await page.locator("#text").fill(text)
    await page.locator("#text").press("Enter")
    await sees(page, ".message.mine .bubble", text)
    await expect(page.locator(".ghost")).to_have_count(0)
    await page.locator("[data-recipe=say] .run").click()
    await sees(page, ".message .bubble", "Hello from psql!")
    await page.locator("[data-recipe=answer] summary").click()
    await page.locator("[data-recipe=answer] .run").click()
    await sees(page, ".message.assistant .bubble", "everyone who may see it does.")
    await page.reload()
    await sees(page, "#state-word", "Live")
    await expect(page.locator(".message")).to_have_count(3)
    await sees(page, ".message.mine .bubble", text)


async def test_a_message_that_is_sent_again_is_written_once(
    demo_server: RunningServer, platform: Platform, world: World
) -> None:
    """By its id; whoever got no answer cannot know whether it was written."""
    messages, wanted = f"/bots/{world.bot}/messages", str(uuid4())
    for _ in range(2):
        body = {"content": "one", "message_id": wanted}
        answer = await ask(demo_server, messages, body, user=world.guest)
        assert answer == (201, {"message_id": wanted})
    assert await platform.connection.fetchval("SELECT count(*) FROM messages") == 1
    odd = {"content": "one", "message_id": "one"}
    assert (await ask(demo_server, messages, odd, user=world.guest))[0] == 400


@pytest.mark.browser
async def test_what_could_not_be_sent_is_sent_again_on_demand(
    chromium: Chromium, demo_server: RunningServer, platform: Platform, world: World
) -> None:
    """Once, also where the first attempt was written and its answer was lost."""
    page = await open_demo(chromium, demo_server, world)

    async def lose_the_answer(route: Route) -> None:
        await route.fetch()
        await route.abort()

    async def refuse(route: Route) -> None:
        await route.fulfill(status=503, json={"error": "the database is away"})

    await page.route("**/demo/bots/**", refuse, times=1)
    await page.locator("#text").fill("again")
    await page.locator("#text").press("Enter")
    await sees(page, ".ghost .trouble", "Not sent: the database is away.")
    await page.get_by_role("button", name="Retry").click()
    await sees(page, ".message.mine .bubble", "again")
    await expect(page.locator(".ghost")).to_have_count(0)
    await page.route("**/demo/bots/**", lose_the_answer, times=1)
    await page.locator("#text").fill("lost")
    await page.locator("#text").press("Enter")
    await sees(page, ".message.mine .bubble", "lost")
    count = "SELECT count(*) FROM messages WHERE content IN ('again', 'lost')"
    assert await platform.connection.fetchval(count) == 2
    await eventually(lambda: len(chromium.complaints) == 2)
    assert all(one.startswith("Failed to load resource") for one in chromium.complaints)
    chromium.complaints.clear()


@pytest.mark.browser
async def test_a_server_without_its_database_is_not_live(
    chromium: Chromium, demo_server: RunningServer, world: World
) -> None:
    """The sockets stay open meanwhile, so the page asks; and shows when it is over."""
    page = await open_demo(chromium, demo_server, world)
    reason = "not connected to the database"

    async def away(route: Route) -> None:
        await route.fulfill(status=503, json={"error": f"not ready: {reason}", "reason": reason})

    await page.route("**/api/ready", away)
    await sees(page, "#state-word", "Server not ready")
    await sees(page, "#state-detail", reason)
    await page.unroute("**/api/ready")
    await expect(page.locator("#state-word")).to_have_text("Live")
    await expect(page.locator("#state-detail")).to_be_empty()
    assert all(one.startswith("Failed to load resource") for one in chromium.complaints)
    chromium.complaints.clear()


@pytest.mark.browser
async def test_an_administrator_confirms_before_it_happens(
    chromium: Chromium, demo_server: RunningServer, world: World
) -> None:
    """A refusal in the dialog does nothing; a test event comes to all; a socket is closed."""
    guest = await demo_server.chat(world.bot, world.guest)
    page = await open_demo(chromium, demo_server, world)
    await page.locator(".tabs [data-tab=cluster]").click()
    row = page.locator("#connections tr", has_text="gus")
    await row.locator("[data-action=disconnect]").click()
    await page.locator("#confirm-no").click()
    await page.locator("#try-event").click()
    await page.locator("#confirm-yes").click()
    await guest.next("console_test")
    assert not guest.is_closed
    await row.locator("[data-action=disconnect]").click()
    await page.locator("#confirm-yes").click()
    assert await guest.closed() == 1013


@pytest.mark.browser
async def test_a_socket_for_many_bots_is_offered_no_disconnect(
    chromium: Chromium, demo_server: RunningServer, world: World
) -> None:
    """It is on no topic of its own that could be ejected; ejecting its user closes it."""
    many = await demo_server.multi(world.guest)
    page = await open_demo(chromium, demo_server, world)
    await page.locator(".tabs [data-tab=cluster]").click()
    row = page.locator("#connections tr", has_text="gus")
    await expect(row.locator("[data-action=disconnect]")).to_have_count(0)
    await row.locator("[data-action=eject]").click()
    await page.locator("#confirm-yes").click()
    assert await many.closed() == 1013


async def test_statements_that_lift_their_time_limit_are_ended_all_the_same(
    start_server: StartServer, platform: Platform, world: World
) -> None:
    """Or four of them would keep everybody from running any: the role has so many connections."""

    def demo(settings: Settings) -> DemoTables:
        dsn = settings.database_url.get_secret_value()
        service = dsn.replace("//postgres@", "//demo_service@", 1)
        return DemoTables(settings, service, seconds=0.5)

    await platform.execute(SERVICE_ROLE.read_text("utf-8"))
    server = await start_server(CONSOLE="true", demo=demo)
    endless = {"statements": ["SET statement_timeout = 0", "SELECT pg_sleep(3600)"]}
    answer = await ask(server, "/sql", endless, user=world.owner)
    assert answer == (504, {"results": ["SET"], "error": "it took too long, and was ended"})

    async def is_gone() -> bool:
        return not await platform.connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'demo_service')"
        )

    await eventually(is_gone)
