"""The console's cluster panel in a real browser: charts, processes, connections."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.acceptance.console import PHONE, Chromium, OpenConsole, sees
from tests.acceptance.test_multi import second_bot, subscribe
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World
from tests.waiting import eventually

if TYPE_CHECKING:
    from playwright.async_api import Page, Route

pytestmark = [pytest.mark.browser, pytest.mark.gen_test]

CHARTS = ["events", "deliveries", "latency", "sockets", "doorbell"]
SOME = re.compile(r"[1-9]")
PAGE = 25


async def open_cluster(page: Page) -> None:
    await page.locator(".tabs [data-tab=cluster]").click()
    await expect(page.locator(".chart canvas")).to_have_count(len(CHARTS))


async def says(page: Page, platform: Platform, world: World) -> bool:
    """Write a row; whether the charts' numbers tell of events by now."""
    await platform.message(world.session, world.bot, world.owner)
    numbers = page.locator(
        "[data-chart=events] b, [data-chart=deliveries] b, [data-chart=latency] b"
    )
    texts = await numbers.all_inner_texts()
    return all(SOME.search(text) for text in texts)


async def test_the_charts_move_while_rows_are_written(
    open_console: OpenConsole, platform: Platform, world: World
) -> None:
    """Each has its newest number beside it as text, and something is drawn."""
    page = await open_console(world.owner, is_admin=True)
    await open_cluster(page)
    keys = [await chart.get_attribute("data-chart") for chart in await page.locator(".chart").all()]
    assert keys == CHARTS
    await expect(page.locator("[data-series=chats] b")).to_have_text("1")
    await expect(page.locator("[data-series=notifications] b")).to_have_text("1")
    await eventually(lambda: says(page, platform, world))
    assert await page.evaluate(with_copy(ARE_DRAWN)) == [True] * len(CHARTS)
    await expect(page.locator("#cluster-trouble")).to_be_empty()


def with_copy(function: str) -> str:
    return f"() => {{ {COPY} return ({function})(); }}"


COPY = """
function copyOf(canvas) {
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext('2d', { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  return context;
}
"""
"""To be read again and again, which of the canvas itself the browser warns."""
ARE_DRAWN = """
() => [...document.querySelectorAll('.chart canvas')].map((canvas) => {
  const { data } = copyOf(canvas).getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value) => value > 0);
})
"""


async def test_the_log_is_not_filled_by_an_open_console(
    open_console: OpenConsole,
    platform: Platform,
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It asks every second; that it asks for the connections is worth a line."""
    caplog.set_level(logging.INFO)
    page = await open_console(world.owner, is_admin=True)
    await open_cluster(page)
    await sees(page, "#connections .who-name", "olga")
    await eventually(lambda: says(page, platform, world))
    assert "path=/api/ws/connections" in caplog.text
    assert "/api/ws/figures" not in caplog.text


async def test_all_processes_are_listed(
    open_console: OpenConsole, start_server: StartServer, world: World
) -> None:
    """With how each of them waits for events; whoever answered is marked."""
    other = await start_server()
    page = await open_console(world.guest, is_admin=True)
    await open_cluster(page)
    await sees(page, "#cluster-size", "2 processes")
    await sees(page, "#nodes", f":{other.server.port}")
    await expect(page.locator("#nodes tbody tr")).to_have_count(2)
    await expect(page.locator("#nodes .badge")).to_have_count(1)
    await expect(page.locator("#nodes [data-mode]")).to_have_count(2)
    await sees(page, "#log-facts", "NOTIFY queue")


async def test_an_administrator_turns_the_pages_of_the_connections(
    open_console: OpenConsole, console_server: RunningServer, world: World
) -> None:
    """Everybody's sockets, a page at a time, this page's own marked as such."""
    for _ in range(PAGE):
        await console_server.chat(world.bot, world.guest)
    page = await open_console(world.owner, is_admin=True)
    await sees(page, "#notifications-state", "live")
    await open_cluster(page)
    await expect(page.locator("#connections-page")).to_have_text(f"1 to {PAGE}")
    mine = await page.locator("#connections .badge").count()
    await page.locator("#connections-next").click()
    await expect(page.locator("#connections-page")).to_have_text(f"{PAGE + 1} to {PAGE + 2}")
    mine += await page.locator("#connections .badge").count()
    assert mine == 2, "its two sockets"
    await expect(page.locator("#connections tbody tr")).to_have_count(2)
    await page.locator("#connections-back").click()
    await expect(page.locator("#connections-page")).to_have_text(f"1 to {PAGE}")
    await sees(page, "#connections .who-name", "gus")


async def test_sockets_for_many_bots_are_shown_as_such(
    open_console: OpenConsole, console_server: RunningServer, platform: Platform, world: World
) -> None:
    """With their bots, and counted neither as those of one bot nor as notifications."""
    other, _ = await second_bot(platform, world)
    for bots in ([], [world.bot], [world.bot, other]):
        socket = await console_server.multi(world.guest)
        for bot in bots:
            await subscribe(socket, bot)
    page = await open_console(world.owner, is_admin=True)
    await sees(page, "#notifications-state", "live")
    await open_cluster(page)
    for series, count in (("chats", 1), ("multi", 3), ("notifications", 1)):
        await expect(page.locator(f"[data-series={series}] b")).to_have_text(str(count))
    theirs = page.locator("#connections tr").filter(has_text="gus").locator("td:nth-child(2)")
    await expect(theirs).to_have_count(3)
    assert {*await theirs.all_inner_texts()} == {
        "many: no bot",
        "many: this bot",
        "many: this bot and 1 other",
    }


async def test_whoever_is_no_administrator_is_told_so(
    open_console: OpenConsole, chromium: Chromium, world: World
) -> None:
    """In words and once; the charts are for everybody who sees a console."""
    page = await open_console(world.guest)
    await open_cluster(page)
    await sees(page, "#connections-why", "for administrators")
    await expect(page.locator("#connections-box")).to_be_hidden()
    await expect(page.locator("[data-series=chats] b")).to_have_text("1")
    # That the browser itself notes the refusal is its own business.
    assert all("403" in complaint for complaint in chromium.complaints)
    assert len(chromium.complaints) == 1
    chromium.complaints.clear()


async def test_without_the_database_it_says_whose_figures_these_are(
    open_console: OpenConsole, world: World
) -> None:
    """The process that answers is all that is known then."""
    page = await open_console(world.owner, is_admin=True)

    async def without_log(route: Route) -> None:
        answer = await (await route.fetch()).json()
        await route.fulfill(json={**answer, "log": None})

    await page.route("**/api/ws/figures", without_log)
    await open_cluster(page)
    await sees(page, "#cluster-trouble", "the process that answers, alone")
    await sees(page, "#log-facts", "cannot be asked")
    await page.unroute("**/api/ws/figures")
    await expect(page.locator("#cluster-trouble")).to_be_empty()


async def test_the_panel_recovers_when_it_was_first_opened_without_a_server(
    open_console: OpenConsole, chromium: Chromium, world: World
) -> None:
    """All that it needs came with the page; it asks until somebody answers."""
    page = await open_console(world.owner, is_admin=True)
    await page.context.set_offline(True)
    await open_cluster(page)
    await sees(page, "#cluster-trouble", "does not answer")
    await page.context.set_offline(False)
    await expect(page.locator("#cluster-trouble")).to_be_empty()
    await expect(page.locator("[data-series=chats] b")).to_have_text("1")
    assert all("ERR_INTERNET_DISCONNECTED" in one for one in chromium.complaints)
    chromium.complaints.clear()


async def test_a_phone_shows_the_cluster_without_scrolling_sideways(
    open_console: OpenConsole, world: World
) -> None:
    """Each chart is as wide as the screen lets it be, and the tables leave columns out."""
    page = await open_console(world.owner, is_admin=True, viewport=PHONE)
    await open_cluster(page)
    await sees(page, "#connections .who-name", "olga")
    assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    wider = "(box) => box.scrollWidth > box.clientWidth"
    for box in (".cluster .scroll", ".table >> nth=0", ".table >> nth=1"):
        assert not await page.locator(box).evaluate(wider), box


async def test_in_the_dark_the_charts_are_dark(open_console: OpenConsole, world: World) -> None:
    """Their lines are painted anew when the reader's scheme changes."""
    page = await open_console(world.owner, is_admin=True, color_scheme="light")
    await open_cluster(page)
    light = await page.evaluate("getComputedStyle(document.querySelector('.card')).color")
    await expect(page.locator("[data-series=chats] b")).to_have_text("1")
    await eventually(lambda: page.evaluate(with_copy(COLOURS)))
    before = await page.evaluate(with_copy(COLOURS))
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate("getComputedStyle(document.querySelector('.card')).color") != light
    await eventually(lambda: painted_otherwise(page, before))


async def painted_otherwise(page: Page, before: list[str]) -> bool:
    return not set(before) & set(await page.evaluate(with_copy(COLOURS)))


COLOURS = """
() => {
  const canvas = document.querySelector('[data-chart=sockets] canvas');
  const { data } = copyOf(canvas).getImageData(0, 0, canvas.width, canvas.height);
  const opaque = new Set();
  for (let at = 0; at < data.length; at += 4)
    if (data[at + 3] === 255) opaque.add(data.slice(at, at + 3).join());
  return [...opaque];
}
"""


QUANTILES: list[tuple[list[list[int]], float, float | None]] = [
    ([[10, 0, 0]], 0.5, 0.5),
    ([[5, 5, 0]], 0.99, 1.98),
    ([[1, 0, 0], [0, 1, 0]], 1, 2.0),
    ([[0, 0, 4]], 0.5, 2.0),
    ([[0, 0, 0]], 0.5, None),
    ([], 0.5, None),
]
"""Counts by bucket (to 1, to 2, above) of each process; the part; the value."""


async def test_quantiles_of_histograms(chromium: Chromium, console_server: RunningServer) -> None:
    """Evenly within a bucket, over all processes; none where nothing was delivered."""
    page = await chromium.page()
    await page.goto(console_server.url("/"))
    code = """async ([counts, part]) => {
      const { quantile } = await import('/static/console/history.js');
      return quantile(counts.map((counts) => ({ bounds: [1, 2], counts })), part);
    }"""
    for counts, part, expected in QUANTILES:
        found = await page.evaluate(code, [counts, part])
        assert found == pytest.approx(expected), counts
