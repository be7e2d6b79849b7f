"""Events over HTTP through nginx as docs/deploying.md sets it up."""

from __future__ import annotations

import getpass
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT, free_port, running
from tests.event_stream import EventStream
from tests.platform import Platform
from tests.serving import RunningServer, World, token
from tests.waiting import wait_until

PAGE = (ROOT / "docs" / "deploying.md").read_text("utf-8")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
MAIN = """
daemon off; pid {home}/pid; error_log stderr; user {user};
events {{}}
http {{
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
    gzip on;
    {page}
}}
"""


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def nginx(server: RunningServer, tmp_path: Path) -> Iterator[int]:
    """The port of a proxy in front of the server."""
    assert NGINX
    port = free_port()
    blocks = re.findall(r"^```nginx\n(.*?)^```", PAGE, re.M | re.S)
    page = str(blocks[0]).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    page = page.replace("127.0.0.1:8000", server.base).replace("/var/log/nginx", str(tmp_path))
    written = tmp_path / "nginx.conf"
    written.write_text(MAIN.format(home=tmp_path, user=getpass.getuser(), page=page))
    with running([NGINX, "-c", str(written), "-p", str(tmp_path)]):
        wait_until(lambda: answers(port))
        yield port


@pytest.mark.skipif(NGINX is None, reason="there is no nginx")
@pytest.mark.gen_test
async def test_a_proxy_passes_each_event_on_at_once(
    nginx: int, server: RunningServer, platform: Platform, world: World
) -> None:
    """Though it buffers answers by default; and it learns from the client that it has left."""
    address = f"/api/sse/chat/{world.bot}?token={token(world.guest)}"
    events = await EventStream.open(nginx, address, {"Accept-Encoding": "gzip"}, "1.0")
    await events.next("connection_established")
    for number in (1, 2):
        await platform.message(world.session, world.bot, world.owner, str(number))
        await events.next("chat_message", number)
    assert "content-encoding" not in events.headers
    await platform.revoke(world.bot, world.guest)
    assert await events.ended() == {"code": 4003, "reason": "access ended"}
