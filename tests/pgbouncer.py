"""A real PgBouncer in front of the tests' server, in transaction mode: what hosts call a pooler."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from realtime.embedded.account import ServerAccount
from realtime.postgres.pool import _FOR_THE_LOG, AS_COMPARED, _settings
from tests.commands import free_port
from tests.waiting import LIMIT, wait_until

# All that our connections send at their start; some hosts' poolers let it pass.
_PASSED = ",".join([*_FOR_THE_LOG, *AS_COMPARED, *_settings(1), "search_path"])


def find_pgbouncer() -> str:
    """The program; a test is skipped without it, but never silently in CI."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        reason = "pgbouncer is missing: apt-get install pgbouncer"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def pgbouncer(
    dsn: str, *, mode: str = "transaction", passes: bool = True, size: int = 20
) -> Iterator[str]:
    """Runs one before the server of `dsn`; the address of the same database through it.

    Args:
        mode: PgBouncer's pool_mode.
        passes: it ignores settings at a connection's start that it does not know.
        size: sessions that it has for all its clients.
    """
    program = find_pgbouncer()
    there, port = urlsplit(dsn), free_port()
    with tempfile.TemporaryDirectory(prefix="realtime-test-") as home:
        written = Path(home) / "pgbouncer.ini"
        written.write_text(
            f"[databases]\n* = host={parse_qs(there.query)['host'][0]} port=5432 user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {mode}\n"
            f"default_pool_size = {size}\n"
            f"ignore_startup_parameters = {_PASSED if passes else ''}\n"
        )
        # It does not run as root, nor does the server whose socket it must reach.
        account = ServerAccount.for_data_directory(Path(home) / "none")
        options = account.for_subprocess() if account else {}
        if account:
            os.chown(home, account.uid, account.gid)
        with (Path(home) / "log").open("w") as log:
            process = subprocess.Popen(
                [program, str(written)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **options,
            )
        try:
            wait_until(lambda: "process up" in (Path(home) / "log").read_text())
            yield f"postgresql://postgres@127.0.0.1:{port}{there.path}"
        finally:
            process.terminate()
            process.wait(LIMIT)
