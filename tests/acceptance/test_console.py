"""The console page in a real browser, on the real server: rows are written, and it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.acceptance.console import DESKTOP, PHONE, Chromium, OpenConsole, run_as_psql_would, sees
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token

if TYPE_CHECKING:
    from playwright.async_api import Page, WebSocketRoute

pytestmark = [pytest.mark.browser, pytest.mark.gen_test]

RECIPES = {
    "say": ["chat_message"],
    "answer": ["chat_message", "chat_message_update"],
    "edit": ["chat_message_update"],
    "config": ["bot_update"],
    "upload": ["document_update"],
    "emit": ["wave"],
    "notify": ["notification"],
    "revoke": ["permission_change", "notification", "close"],
}
"""Each recipe of the panel, and what it must make appear in the stream."""


async def test_the_token_leaves_the_address(open_console: OpenConsole, world: World) -> None:
    """It moves to the tab's own storage, so a reload still works; the bot stays."""
    page = await open_console(world.owner)
    assert page.url.endswith(f"/?bot={world.bot}")
    await page.reload()
    await sees(page, "#state-word", "Live")
    await sees(page, "#bot-name", "Ada")
    await sees(page, "#role", "owner")


async def test_the_console_works_under_a_base_path(
    chromium: Chromium, start_server: StartServer, world: World
) -> None:
    """Its files, its sockets and what it asks for: whatever is missing is a complaint."""
    server = await start_server(CONSOLE="true", BASE_PATH="/realtime")
    page = await chromium.page(viewport=DESKTOP)
    signed = token(world.owner, is_admin=True)
    await page.goto(server.url("/realtime/", bot=world.bot, token=signed))
    await sees(page, "#state-word", "Live")
    await page.locator(".tabs [data-tab=cluster]").click()
    await sees(page, "#connections", "this bot")
    await page.close()


async def test_a_conversation_comes_alive(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """A row becomes a bubble; its edit and its deletion show on the same bubble."""
    page = await open_console(world.guest)
    message_id = await platform.message(world.session, world.bot, world.owner, "Good morning")
    await sees(page, ".message.user .bubble", "Good morning")
    await sees(page, ".message .by", "olga")
    await platform.execute("UPDATE messages SET content = 'Good night' WHERE id = $1", message_id)
    await sees(page, ".message[data-state=edited] .bubble", "Good night")
    await platform.execute("DELETE FROM messages WHERE id = $1", message_id)
    await sees(page, ".message[data-state=deleted] .bubble", "deleted")
    assert await page.locator(".message").count() == 1
    assert await page.locator(".event .chip", has_text="chat_message").count() == 3


async def test_hostile_content_stays_text(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """Whatever is written into rows, no page that shows it runs it."""
    page = await open_console(world.owner)
    hostile = '<img src=x onerror="window.ran = 1"><script>window.ran = 1</script>'
    mallory = await platform.user(f"m{hostile}")
    await platform.message(world.session, world.bot, mallory, hostile)
    await platform.execute("UPDATE bots SET name = $2 WHERE id = $1", world.bot, hostile)
    await platform.execute(
        "INSERT INTO documents (bot_id, filename) VALUES ($1, $2)", world.bot, hostile
    )
    await platform.execute(
        "SELECT relay.emit($1, $2, jsonb_build_object('a', $2::text))",
        f"bot:{world.bot}",
        hostile,
    )
    await platform.execute(
        "SELECT relay.notify_user($1, $2, jsonb_build_object('text', $2::text))",
        world.owner,
        hostile,
    )
    for selector in (".bubble", ".note", ".toast", "#bot-name", ".event .chip"):
        await sees(page, selector, "window.ran = 1")
    for line in await page.locator("button.line", has_text="window.ran").all():
        await line.click()
        await sees(page, "#inspect-json", "window.ran = 1")
    assert await page.evaluate("window.ran") is None
    assert await page.locator("main img, main script").count() == 0


async def test_who_is_typing_is_shown(open_console: OpenConsole, world: World) -> None:
    """A keystroke in one window shows in another's, until the text is taken."""
    guest, owner = await open_console(world.guest), await open_console(world.owner)
    await guest.locator("#text").press_sequentially("Hi")
    await sees(owner, "#typists", "gus is typing")
    await guest.locator("#text").press("Enter")
    await expect(owner.locator("#typists")).to_be_empty()


async def test_enter_makes_sql_that_makes_the_message(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """The ghost of a message turns solid when its SQL, as shown, is committed; quotes included."""
    page = await open_console(world.guest)
    text = 'It\'s "quoted"; $$ \\ -- :name <b>'
    await page.locator("#text").fill(text)
    await sees(page, "[data-recipe=say] pre", "It''s")
    await page.locator("#text").press("Enter")
    await sees(page, ".ghost .bubble", text)
    sql = await page.locator(".ghost pre").inner_text()
    await run_as_psql_would(platform, sql)
    await sees(page, ".message.mine .bubble", text)
    assert await page.locator(".ghost").count() == 0
    await sees(page, "#me", "gus")


async def test_the_recipes_do_what_they_promise(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """Each runs on the real schema as it is shown, and its events arrive."""
    page = await open_console(world.guest)
    recipes = page.locator("#recipes .recipe")
    keys = [await recipe.get_attribute("data-recipe") for recipe in await recipes.all()]
    assert keys == list(RECIPES)
    for key, types in RECIPES.items():
        await page.locator("#clear-events").click()
        sql = await page.locator(f"[data-recipe={key}] code").text_content()
        assert sql
        await run_as_psql_would(platform, sql)
        for event_type in types:
            await sees(page, f".event[data-type={event_type}]", "")


async def test_a_revoked_person_is_told_and_let_in_again(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """4003 in words; and when the permission comes back, so does the page, by itself."""
    page = await open_console(world.guest)
    await platform.revoke(world.bot, world.guest)
    await sees(page, "#state-word", "Closed")
    await sees(page, "#state-detail", "4003, access ended")
    await platform.permit(world.bot, world.guest, "editor")
    await sees(page, "#state-word", "Live")
    await sees(page, "#role", "editor")


class Line:
    """The wire between pages and the server, which a test may cut."""

    def __init__(self) -> None:
        self.is_cut = False
        self._sockets: list[WebSocketRoute] = []

    async def on_socket(self, socket: WebSocketRoute) -> None:
        if self.is_cut:
            await socket.close(code=1001)
            return
        socket.connect_to_server()
        self._sockets.append(socket)

    async def cut(self) -> None:
        self.is_cut = True
        for socket in self._sockets:
            await socket.close(code=1001)


async def test_a_cut_connection_resumes_without_a_gap(
    chromium: Chromium, console_server: RunningServer, platform: Platform, world: World
) -> None:
    """What was written meanwhile is there after the return, once."""
    line = Line()
    page = await chromium.page(viewport=DESKTOP)
    await page.route_web_socket("**/api/ws/**", line.on_socket)
    await page.goto(console_server.url("/", bot=world.bot, token=token(world.guest)))
    await platform_says(platform, world, page, "before")
    await line.cut()
    await sees(page, "#state-word", "Reconnecting")
    await sees(page, "#state-detail", "1001, the server is going away")
    await platform.message(world.session, world.bot, world.owner, "meanwhile")
    line.is_cut = False
    await sees(page, ".bubble", "meanwhile")
    await sees(page, ".event .gist", "recovered")
    assert await page.locator(".message").count() == 2


async def platform_says(platform: Platform, world: World, page: Page, text: str) -> None:
    await sees(page, "#state-word", "Live")
    await platform.message(world.session, world.bot, world.owner, text)
    await sees(page, ".bubble", text)


async def test_a_flood_does_not_fill_the_page(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """Both lists are bounded, and both show their newest end."""
    page = await open_console(world.owner)
    await platform.execute(
        "INSERT INTO messages (session_id, bot_id, user_id, role, content)"
        " SELECT $1, $2, $3, 'user', 'line ' || n FROM generate_series(1, 1200) AS n",
        world.session,
        world.bot,
        world.owner,
    )
    for selector in ("#conversation .bubble", "#events .gist"):
        await sees(page, selector, "line 1200")
    for box in ("#conversation", "#events"):
        assert await page.locator(f"{box} > .item").count() <= 500
    await expect(page.locator("#count-messages")).to_have_text("500 of 1,200 messages")
    # And both connection_established, and the presence_state.
    await expect(page.locator("#count-events")).to_have_text("1,203")


async def test_without_a_token_it_asks(
    console_server: RunningServer, chromium: Chromium, world: World
) -> None:
    """A dialog asks for what is missing, and again with the reason when the token is refused."""
    page = await chromium.page(viewport=DESKTOP)
    await page.goto(console_server.url("/"))
    await page.locator("[name=bot]").fill(world.bot)
    await page.locator("[name=token]").fill("not-a-token")
    await page.keyboard.press("Enter")
    await sees(page, "#state-detail", "4001, token invalid")
    await sees(page, "#bot-name", "Bot ")
    await sees(page, "#credentials-why", "refused")
    await page.locator("[name=token]").fill(token(world.guest))
    await page.keyboard.press("Enter")
    await sees(page, "#state-word", "Live")


async def test_a_phone_shows_one_panel_at_a_time(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """Nothing is wider than the screen, and each panel is a tab away, at its end."""
    page = await open_console(world.owner, is_admin=True, viewport=PHONE)
    for number in range(30):
        await platform.message(world.session, world.bot, world.owner, f"line {number}")
    await sees(page, ".bubble", "line 29")
    for tab, panel in [
        ("events", "events"),
        ("sql", "sql"),
        ("cluster", "cluster"),
        ("conversation", "conversation"),
    ]:
        await page.locator(f".tabs [data-tab={tab}]").click()
        assert await page.locator(".panel:visible").count() == 1
        assert await page.locator(f".panel.{panel}").is_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for tab, last in [("events", ".event"), ("conversation", ".message")]:
        await page.locator(f".tabs [data-tab={tab}]").click()
        await in_view(page, f"{last} >> nth=-1")


async def test_each_tab_shows_something_else(open_console: OpenConsole, world: World) -> None:
    """Where two panels have room, the events are beside the conversation, and have no tab."""
    narrower = {"width": 1180, "height": 800}
    page = await open_console(world.owner, is_admin=True, viewport=narrower)
    shown = []
    for tab in await page.locator(".tabs button:visible").all():
        await tab.click()
        panels = await page.locator(".panel:visible h2").all_inner_texts()
        shown.append(panels)
    assert shown == [["Conversation", "Events"], ["The SQL to try", "Conversation"], ["Cluster"]]


async def test_a_phone_on_its_side_shows_the_dialogs_buttons(
    open_console: OpenConsole, world: World
) -> None:
    """They can be reached without a scroll that nobody would guess."""
    page = await open_console(world.owner, viewport={"width": 740, "height": 360})
    await page.locator("#change").click()
    for button in ("#credentials-cancel", "#credentials-form .primary"):
        await expect(page.locator(button)).to_be_in_viewport(ratio=1)


async def in_view(page: Page, selector: str) -> None:
    await expect(page.locator(selector)).to_be_in_viewport()


async def test_another_bot_is_another_conversation(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """The dialog leads to it, and nothing of the first one stays."""
    page = await open_console(world.owner)
    await platform_says(platform, world, page, "of the first")
    second = await platform.bot(world.owner, "Babbage")
    await page.locator("#change").click()
    await page.locator("[name=bot]").fill(second)
    await page.locator("[name=token]").fill(token(world.owner))
    await page.keyboard.press("Enter")
    await sees(page, "#bot-name", "Babbage")
    await sees(page, "#conversation-empty", "Quiet so far")
    assert await page.locator(".message").count() == 0
