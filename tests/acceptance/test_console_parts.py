"""The console's event inspector, its demonstration of coming back, and who is present."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.acceptance.console import PHONE, OpenConsole, run_as_psql_would, sees
from tests.platform import Platform
from tests.serving import RunningServer, World

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.gen_test]

GONE_WITHIN = 30_000
"""Milliseconds; a reload is given five seconds before it counts as leaving."""


async def with_messages(page: Page, platform: Platform, world: World, *texts: str) -> None:
    for text in texts:
        await platform.message(world.session, world.bot, world.owner, text)
        await sees(page, ".event[data-type=chat_message] .gist", text)


async def test_a_click_shows_an_event_in_full(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """All of its JSON, where it came from, its size, and the way from its row to the screen."""
    page = await open_console(world.guest)
    await with_messages(page, platform, world, "Look into me")
    await page.locator(".event", has_text="Look into me").locator("button").click()
    await expect(page.locator("#inspect-type")).to_have_text("chat_message")
    shown = json.loads(await page.locator("#inspect-json").inner_text())
    assert shown["data"]["content"] == "Look into me"
    facts = {
        name: await page.locator(f"[data-fact={name}]").inner_text()
        for name in ("id", "size", "written", "received", "shown", "cursor")
    }
    assert facts["id"] == shown["id"]
    assert facts["cursor"] == shown["cursor"]
    assert re.fullmatch(r"[1-9][\d,]* bytes", facts["size"])
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", facts["written"])
    assert re.search(r" · (\d+(\.\d)? ms after|by clocks that disagree)$", facts["shown"])
    await page.locator("#inspect-json + .copy").click()
    await sees(page, "#inspect-json + .copy", "Copied")
    await page.locator("#inspect-close").click()
    await expect(page.locator("#inspector")).to_be_hidden()


async def test_the_keyboard_walks_through_the_events(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """One stop of the Tab key; arrows choose, Enter opens, Escape closes and leaves one there."""
    page = await open_console(world.guest)
    await with_messages(page, platform, world, "first", "second")
    await page.locator("#show-typing_indicator").uncheck()
    await page.locator("#clear-events").click()
    await with_messages(page, platform, world, "third", "fourth")
    await page.locator("#events").focus()
    await page.keyboard.press("Enter")
    await sees(page, "#inspect-json", "fourth")
    await page.keyboard.press("ArrowUp")
    await sees(page, "#inspect-json", "third")
    await expect(page.locator(".event [aria-current]")).to_contain_text("third")
    await page.keyboard.press("Escape")
    await expect(page.locator("#inspector")).to_be_hidden()
    await expect(page.locator(":focus")).to_contain_text("third")
    await expect(page.locator(".event [aria-current]")).to_have_count(0)
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.locator("#inspect-before")).to_be_focused()
    await page.locator("#inspect-after").press("Enter")
    await sees(page, "#inspect-json", "fourth")
    await page.keyboard.press("Escape")
    await expect(page.locator(":focus")).to_contain_text("fourth")


async def test_ten_rows_written_while_the_line_is_cut_arrive_once_each(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """The demonstration: cut, insert what it shows, mend; then once more with other rows."""
    page = await open_console(world.guest)
    await page.locator("#resume summary").click()
    for _ in range(2):
        await page.locator("#cut").click()
        await sees(page, "#state-word", "Reconnecting")
        await sees(page, "#resume-result", "The line is cut")
        await expect(page.locator("#resume-rows .here")).to_have_count(0)
        sql = await page.locator("#resume-sql code").text_content()
        assert sql
        await run_as_psql_would(platform, sql)
        await page.locator("#mend").click()
        # Not at once: there was no attempt by itself before the line was mended.
        await sees(page, "#resume-result", re.compile("^10 of 10, once each, after .*recovered"))
        await expect(page.locator("#resume-rows .here")).to_have_count(10)
        await sees(page, "#state-word", "Live")
    await expect(page.locator(".message")).to_have_count(20)


async def test_mending_without_rows_says_so(open_console: OpenConsole, world: World) -> None:
    """By the keyboard alone; what cannot be done at the moment does nothing."""
    page = await open_console(world.owner)
    await page.locator("#resume summary").press("Enter")
    await page.locator("#mend").press("Enter")
    await expect(page.locator("#resume-result")).to_be_empty()
    await page.locator("#cut").press("Enter")
    await expect(page.locator("#resume-sql .copy")).to_be_focused()
    await page.locator("#mend").press("Enter")
    await sees(page, "#resume-result", "Back: recovered. None of the ten rows")


async def test_who_is_here_is_shown_and_who_leaves_goes(
    open_console: OpenConsole, console_server: RunningServer, world: World
) -> None:
    """By person, whatever kind of client theirs is."""
    page = await open_console(world.owner)
    present = page.locator("#present li")
    await sees(page, "#present", "olga (you)")
    guest = await console_server.chat(world.bot, world.guest)
    await sees(page, "#present", "gus")
    await expect(present).to_have_count(2)
    assert guest.connection is not None
    guest.connection.close()
    await expect(present).to_have_count(1, timeout=GONE_WITHIN)
    await sees(page, "#present", "olga (you)")


async def test_a_phone_has_room_for_the_inspector_and_the_demonstration(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """Nothing is wider than the screen, open or not."""
    page = await open_console(world.owner, viewport=PHONE)
    await page.locator(".tabs [data-tab=events]").click()
    await with_messages(page, platform, world, "narrow " * 40)
    await page.locator(".event[data-type=chat_message] button").click()
    await expect(page.locator("#inspect-json")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    await page.locator(".tabs [data-tab=sql]").click()
    await page.locator("#resume summary").click()
    await page.locator("#mend").scroll_into_view_if_needed()
    assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
