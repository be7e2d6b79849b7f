"""The proxies of docs/deploying.md, under a path and with a certificate of their own."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import ROOT, Running, free_port, running
from tests.waiting import LIMIT, wait_until

BASE = "/realtime"
PAGE = (ROOT / "docs" / "deploying.md").read_text("utf-8")


class Proxy:
    """One of them, in a directory where it also writes its logs.

    Args:
        home: the directory.
        upstream: the server's port.
    """

    name: str
    keeps_sockets = True
    """Whether a reload leaves open sockets alone."""
    _here: dict[str, str]
    """What stands in the page, and what stands in its place here."""

    def __init__(self, home: Path, upstream: int) -> None:
        self.home, self.port = home, free_port()
        self.certificate = home / "certificate.pem"
        self._written = home / "configuration"
        self._here = self._changes() | {"127.0.0.1:8000": f"127.0.0.1:{upstream}"}
        self.running: Running

    def _changes(self) -> dict[str, str]:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _around(self, page: str) -> str:
        """The page's part in a whole configuration."""
        return page

    def reload(self) -> None:
        """Read the configuration again; returns when new connections meet that."""
        raise NotImplementedError

    @classmethod
    def program(cls) -> str | None:
        return shutil.which(cls.name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def write(self) -> None:
        (page,) = re.findall(rf"^```{self.name}\n(.*?)^```", PAGE, re.M | re.S)
        for there, here in self._here.items():
            assert there in page, there
            page = page.replace(there, here)
        self._written.write_text(self._around(page))

    def logs(self) -> str:
        """All that it has written anywhere."""
        files = [path.read_text() for path in self.home.glob("*.log")]
        return "\n".join([self.running.output, *files])

    def answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


class Nginx(Proxy):
    name = "nginx"

    def _changes(self) -> dict[str, str]:
        return {
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "/var/log/nginx": str(self.home),
            "/etc/ssl/realtime.pem": str(self.certificate),
            "/etc/ssl/realtime.key": str(self.certificate),
            "location / {": _of_the_page(f"location {BASE}/ {{"),
        }

    def _around(self, page: str) -> str:
        folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = " ".join(f"{name}_temp_path {self.home}/{name};" for name in folders)
        return (
            f"daemon off; pid {self.home}/pid; error_log {self.home}/main.log notice;"
            f" user {getpass.getuser()}; worker_processes 1; events {{}}\n"
            f"http {{ {paths} gzip on;\n{page}}}"
        )

    def _command(self) -> list[str]:
        return ["-c", str(self._written), "-p", str(self.home)]

    def reload(self) -> None:
        self.running.process.send_signal(signal.SIGHUP)
        workers = self.home / "main.log"
        wait_until(lambda: "gracefully shutting down" in workers.read_text())


class HAProxy(Proxy):
    name = "haproxy"

    def _changes(self) -> dict[str, str]:
        return {
            "bind :443": f"bind 127.0.0.1:{self.port}",
            "/dev/log local0": "stdout format raw local0",
            "/etc/haproxy/realtime.pem": str(self.certificate),
            "default_backend realtime": _of_the_page(
                f"use_backend realtime if {{ path_beg {BASE}/ }}"
            ),
        }

    def _command(self) -> list[str]:
        return ["-W", "-f", str(self._written)]

    def reload(self) -> None:
        self.running.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: self.running.output.count("Loading success") == 2)


class Caddy(Proxy):
    name = "caddy"

    @property
    def _is_old(self) -> bool:
        """Debian's: it does not know how to keep sockets."""
        program = self.program()
        assert program
        said = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
        return said.stdout.lstrip("v").startswith("2.6.")

    def _changes(self) -> dict[str, str]:
        self.keeps_sockets = not self._is_old
        changes = {
            "{\n    log {": f"{{\n    admin unix/{self.home}/admin\n    auto_https off\n    log {{",
            "realtime.example.org {": f"https://:{self.port} {{\n    bind 127.0.0.1\n"
            f"    tls {self.certificate} {self.certificate}",
            "reverse_proxy 127.0.0.1:8000 {": _of_the_page(
                f"reverse_proxy {BASE}/* 127.0.0.1:8000 {{"
            ),
        }
        return changes | ({"stream_close_delay 10m\n": "\n"} if self._is_old else {})

    def _command(self) -> list[str]:
        return ["run", "--config", str(self._written), "--adapter", "caddyfile"]

    def reload(self) -> None:
        program = self.program()
        assert program
        options = ["--config", str(self._written), "--adapter", "caddyfile", "--force"]
        address = ["--address", f"unix/{self.home}/admin"]
        subprocess.run([program, "reload", *options, *address], check=True, timeout=LIMIT)


def _of_the_page(text: str) -> str:
    assert f"`{text}`" in PAGE, text
    return text


def make_certificate(at: Path) -> None:
    """A certificate and its key in one file."""
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    key = at.with_suffix(".key")
    command = ["openssl", "req", *kind, *subject, "-keyout", str(key), "-out", str(at)]
    subprocess.run(command, check=True, capture_output=True)
    at.write_text(at.read_text() + key.read_text())


@contextmanager
def proxy(kind: type[Proxy], home: Path, upstream: int) -> Iterator[Proxy]:
    """It runs. Without the program a test is skipped, but never silently in CI.

    There only Caddy may be missing, which not every system has as a package.
    """
    program = kind.program()
    if program is None:
        reason = f"{kind.name} is missing"
        if os.environ.get("CI") == "true" and kind is not Caddy:
            pytest.fail(reason)
        pytest.skip(reason)
    started = kind(home, upstream)
    make_certificate(started.certificate)
    started.write()
    environ = os.environ | {"XDG_CONFIG_HOME": str(home), "XDG_DATA_HOME": str(home)}
    with running([program, *started._command()], cwd=home, env=environ) as started.running:
        wait_until(lambda: started.running.process.poll() is not None or started.answers())
        assert started.answers(), started.running.output
        yield started
