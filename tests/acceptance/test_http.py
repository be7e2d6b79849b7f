"""The HTTP endpoints: the guide's statistics, health and readiness, the static files."""

from __future__ import annotations

import json
import logging
import re
import uuid
from typing import Any

import asyncpg
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse

from realtime.config.intervals import Intervals
from realtime.embedded.server import EmbeddedPostgres
from tests.commands import ROOT
from tests.platform import Platform
from tests.serving import RunningServer, StartServer, World, token
from tests.waiting import eventually


async def get(server: RunningServer, path: str, **headers: str) -> HTTPResponse:
    return await AsyncHTTPClient().fetch(
        f"http://{server.base}{path}", headers=headers, raise_error=False
    )


PACKAGE = ROOT / "clients" / "javascript" / "src"


def body(response: HTTPResponse) -> Any:
    assert response.headers["Content-Type"].startswith("application/json")
    return json.loads(response.body)


@pytest.mark.gen_test
async def test_stats_count_connections_users_and_bots(server: RunningServer, world: World) -> None:
    """In the guide's shape, and a little more; any valid token may ask, nobody without one."""
    await server.chat(world.bot, world.guest)
    await server.chat(world.bot, world.guest)
    await server.chat(world.bot, world.owner)
    await server.notifications(world.owner)
    answer = await get(server, f"/api/ws/stats?token={token(world.guest)}")
    assert body(answer) == {
        "total_connections": 4,
        "connected_users": 2,
        "bot_subscriptions": 1,
        "nodes": 1,
        "scope": "cluster",
    }
    refused = await get(server, "/api/ws/stats")
    assert (refused.code, body(refused)) == (401, {"error": "token missing"})


@pytest.mark.gen_test
async def test_connections_are_for_administrators(server: RunningServer, world: World) -> None:
    """Who is where, and since when."""
    chat = await server.chat(world.bot, world.guest)
    bell = await server.notifications(world.owner)
    plain = await get(server, "/api/ws/connections", Authorization=f"Bearer {token(world.owner)}")
    assert plain.code == 403
    admin = token(world.owner, is_admin=True)
    answer = body(await get(server, "/api/ws/connections", Authorization=f"Bearer {admin}"))
    chat_id, bell_id = (one.messages[0]["data"]["connection_id"] for one in (chat, bell))
    node = server.server.node_id
    for entry in answer["connection_metadata"].values():
        assert entry.pop("connected_at").endswith("Z")
    assert answer == {
        "connected_users": sorted([world.guest, world.owner]),
        "bot_subscriptions": {world.bot: [world.guest]},
        "connection_metadata": {
            chat_id: {"user_id": world.guest, "bot_id": world.bot, "username": "gus", "node": node},
            bell_id: {"user_id": world.owner, "bot_id": None, "username": "olga", "node": node},
        },
        "next": None,
        "scope": "cluster",
    }


@pytest.mark.gen_test
async def test_health_answers_anyone_and_ready_only_while_postgres_is_heard(
    server: RunningServer, postgres: EmbeddedPostgres
) -> None:
    """Not ready when the listening connection was lost, ready again when it is back."""
    assert body(await get(server, "/api/health")) == {"status": "ok"}

    async def is_ready() -> bool:
        return (await get(server, "/api/ready")).code == 200

    async def is_lost() -> bool:
        answer = await get(server, "/api/ready")
        if answer.code == 200:
            return False
        told = body(answer)
        assert (answer.code, answer.headers["Retry-After"]) == (503, "2")
        assert told["error"] == f"not ready: {told['reason']}"
        return True

    await eventually(is_ready)
    ready = body(await get(server, "/api/ready"))
    assert ready.pop("database_ms") >= 0
    assert ready.pop("relay") in ("asleep", "awake", "fenced")
    assert ready == {"status": "ready"}
    name = server.settings.database_url.get_secret_value().partition("?")[0].rpartition("/")[2]
    postgres.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    await eventually(is_lost)
    postgres.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await eventually(is_ready)
    assert body(await get(server, "/api/health")) == {"status": "ok"}


@pytest.mark.gen_test
async def test_ready_is_about_the_pool_too(start_server: StartServer, database: str) -> None:
    """A new socket is let in over DATABASE_URL, which may be away while PostgreSQL is heard."""
    name = f"pooled_{uuid.uuid4().hex[:8]}"
    administrator = await asyncpg.connect(database)
    await administrator.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")
    server = await start_server(
        intervals=Intervals(heartbeat=0.05),
        DATABASE_URL=database.replace("postgres@", f"{name}@"),
        DATABASE_DIRECT_URL=database,
        DATABASE_TIMEOUT_SECONDS="0.5",
    )

    async def says(status: str) -> bool:
        return f'"{status}"' in (await get(server, "/api/ready")).body.decode()

    await eventually(lambda: says("ready"))
    await administrator.execute(f"ALTER ROLE {name} NOLOGIN")
    await administrator.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", name
    )
    await eventually(lambda: says("the database does not answer over DATABASE_URL"))
    assert server.server.listener.is_connected
    await administrator.execute(f"ALTER ROLE {name} LOGIN")
    await eventually(lambda: says("ready"))
    await server.stop()
    await administrator.execute(f"DROP ROLE {name}")
    await administrator.close()


@pytest.mark.gen_test
async def test_good_answers_to_probes_are_no_news(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A router asks all day; what it is refused, and what others ask, is told."""
    caplog.set_level(logging.DEBUG)
    server = await start_server(CONSOLE="true", BASE_PATH="/realtime")
    asked = [
        "/realtime/api/health",
        "/health",
        "/api/ready",
        "/realtime/metrics",
        "/x/health",
        "/x",
    ]
    for path in asked:
        await get(server, path)
    levels = [one.levelname for one in caplog.records if "request_answered" in one.getMessage()]
    assert levels == ["DEBUG"] * 4 + ["INFO"] * 2


@pytest.mark.gen_test
async def test_head_is_answered_wherever_get_is(start_server: StartServer, world: World) -> None:
    """With the same status and type, and no body; /health is /api/health."""
    server = await start_server(CONSOLE="true")
    admin = token(world.owner, is_admin=True)
    paths = (
        *("/", "/health", "/api/health", "/api/ready", "/metrics", "/static/realtime.js"),
        *(f"/api/ws/{one}?token={admin}" for one in ("stats", "connections", "figures")),
        *(f"/api/ws/presence/{world.bot}?token={admin}", "/api/ws/stats", "/nothing"),
        *("/api/sse/notifications", "/api/ws", f"/api/ws/chat/{world.bot}"),
    )
    for path in paths:
        found = await get(server, path)
        head = await AsyncHTTPClient().fetch(
            f"http://{server.base}{path}", method="HEAD", raise_error=False
        )
        assert (head.code, head.body) == (found.code, b""), path
        assert head.headers["Content-Type"] == found.headers["Content-Type"]
    assert (await get(server, "/health")).body == b'{"status": "ok"}\n'


@pytest.mark.gen_test
async def test_everything_lies_under_the_base_path(start_server: StartServer, world: World) -> None:
    """Sockets, plain and odd handshakes alike, events over HTTP, files; probes at the root too."""
    server = await start_server(CONSOLE="true", BASE_PATH="/real.time/v1/")
    base = "/real.time/v1"
    asked = token(world.guest)
    for path in (
        "/",
        "/health",
        "/api/ready",
        "/static/realtime.js",
        f"/api/ws/stats?token={asked}",
    ):
        assert (await get(server, base + path)).code == 200, path
    for path in ("/health", "/api/health", "/api/ready"):
        assert (await get(server, path)).code == 200
    for path in (
        "/",
        "/static/realtime.js",
        "/realxtime/v1/health",
        f"/api/ws/stats?token={asked}",
    ):
        assert (await get(server, path)).code == 404
    for path in (f"/api/ws/chat/{world.bot}", "/api/ws/notifications"):
        chat = await server.open(base + path, world.guest)
        await chat.established()
    with pytest.raises(HTTPClientError, match="404"):
        await server.open(f"/api/ws/chat/{world.bot}", world.guest)


@pytest.mark.gen_test
async def test_pages_of_allowed_origins_may_read_the_api(start_server: StartServer) -> None:
    """The platform's web client asks /api/health before it connects, from another origin."""
    origin = "https://app.example.org"
    anyone, some = await start_server(), await start_server(ALLOWED_ORIGINS=origin)
    for server, asking, allowed in (
        (anyone, "https://any.example.org", "https://any.example.org"),
        (some, origin, origin),
        (some, "https://evil.example.org", None),
    ):
        answer = await get(server, "/api/health", Origin=asking)
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed


@pytest.mark.gen_test
async def test_the_javascript_client_is_served_and_the_console_only_where_it_is_on(
    start_server: StartServer,
) -> None:
    """With a strict policy: no inline script, nothing from elsewhere."""
    plain, with_console = await start_server(), await start_server(CONSOLE="true")
    script = await get(plain, "/static/realtime.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    types = await get(plain, "/static/realtime.d.ts")
    assert types.headers["Content-Type"].startswith("application/typescript")
    modules = sorted(path.name for path in (PACKAGE / "client").glob("*.js"))
    assert set(re.findall(r"from '\./client/(.*)'", script.body.decode())) <= set(modules)
    for name in ("realtime.js", *(f"client/{module}" for module in modules)):
        served = await get(plain, f"/static/{name}")
        assert served.body == (PACKAGE / name).read_bytes()  # the very files of the npm package
    for path in ("/", "/static/console.js", "/static/../app.py", "/nothing"):
        missing = await get(plain, path)
        assert (missing.code, body(missing)) == (404, {"error": "there is nothing at this address"})
    missing = await get(plain, "/static/client/nothing.js")
    assert (missing.code, body(missing)) == (404, {"error": "Not Found"})
    page = await get(with_console, "/")
    assert b"<html" in page.body
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]


@pytest.mark.gen_test
async def test_a_websocket_address_asked_for_plainly_is_an_error_not_a_crash(
    server: RunningServer, world: World
) -> None:
    """As by a curious browser."""
    assert (await get(server, f"/api/ws/chat/{world.bot}")).code == 400


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/ws", "GET, HEAD"),
        ("/api/ws/chat/1", "GET, HEAD"),
        ("/api/sse/notifications", "GET, HEAD, OPTIONS"),
        ("/api/health", "GET, HEAD, OPTIONS"),
        ("/metrics", "GET, HEAD, OPTIONS"),
    ],
)
@pytest.mark.gen_test
async def test_a_method_that_is_not_for_an_address(
    server: RunningServer, path: str, allowed: str
) -> None:
    """The answer is JSON as all others, and says which methods are (RFC 9110, 15.5.6)."""
    answer = await AsyncHTTPClient().fetch(
        f"http://{server.base}{path}", method="POST", body="{}", raise_error=False
    )
    assert (answer.code, answer.headers["Allow"]) == (405, allowed)
    assert body(answer) == {"error": f"this address takes no such method, only {allowed}"}


@pytest.mark.gen_test
@pytest.mark.parametrize("ended", ["UPDATE users SET is_active = false", "DELETE FROM users"])
async def test_an_administrator_of_before_is_told_nothing(
    start_server: StartServer, platform: Platform, world: World, ended: str
) -> None:
    """The token is still good; its user was deactivated or deleted."""
    server = await start_server(CONSOLE="true")
    former = await platform.user()
    credential = f"Bearer {token(former, is_admin=True)}"
    paths = ("stats", "stats?scope=process", "connections", "connections?scope=process", "figures")
    for path in paths:
        answer = await get(server, f"/api/ws/{path}", Authorization=credential)
        assert answer.code == 200, path
    await platform.execute(f"{ended} WHERE id = $1::text::uuid", former)
    for path in (*paths, f"presence/{world.bot}"):
        answer = await get(server, f"/api/ws/{path}", Authorization=credential)
        refused = (401, {"error": "user unknown or deactivated"})
        assert (answer.code, body(answer)) == refused, path
