"""Who runs the embedded PostgreSQL, how it gets in, and the locks that count its users."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.embedded.account import AccountError, ServerAccount, open_the_way
from realtime.embedded.lock import FileLock, LockTimeout

STRANGER = ServerAccount("stranger", 4_000_000, 4_000_000)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that everyone may pass."""
    with tempfile.TemporaryDirectory(prefix="realtime-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def test_the_way_is_opened_only_where_it_is_closed(home: Path) -> None:
    """Closed directories get o+x, nothing else changes, and it is said in one line."""
    closed, already_open = home / "closed", home / "closed" / "open"
    bin_dir = already_open / "bin"
    bin_dir.mkdir(parents=True)
    (bin_dir / "postgres").touch(0o755)
    closed.chmod(0o700)
    said: list[str] = []
    open_the_way(STRANGER, bin_dir, home / "data", say=said.append)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o701
    assert stat.S_IMODE(already_open.stat().st_mode) == 0o755
    assert said == [f"PostgreSQL runs as stranger, which may now pass through (o+x): {closed}"]
    open_the_way(STRANGER, bin_dir, home / "data", say=said.append)
    assert len(said) == 1


def test_programs_unpacked_under_a_strict_umask_are_made_readable(home: Path) -> None:
    """Also the shared libraries that a wheel keeps beside its package."""
    bin_dir = home / "package" / "install" / "bin"
    libraries = home / "package.libs"
    bin_dir.mkdir(parents=True)
    libraries.mkdir()
    program, library = bin_dir / "postgres", libraries / "libpq.so"
    program.touch(0o700)
    library.touch()
    for path, mode in {program: 0o700, bin_dir: 0o700, library: 0o600, libraries: 0o700}.items():
        path.chmod(mode)
    open_the_way(STRANGER, bin_dir, home / "data", say=lambda _line: None)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (program, bin_dir, library, libraries)]
    assert modes == [0o705, 0o705, 0o604, 0o705]


def test_an_account_passes_where_its_own_rights_say_so(home: Path) -> None:
    """The owner's and the group's bits count for the owner and the group, and for them only."""
    home.chmod(0o710)
    found = home.stat()
    owner = ServerAccount("owner", found.st_uid, -1)
    member = ServerAccount("member", -1, found.st_gid)
    allowed = [account.may(found, stat.S_IXUSR) for account in (owner, member, STRANGER)]
    assert allowed == [True, True, False]


def test_data_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user is told whose data it is."""
    monkeypatch.setattr(os, "geteuid", lambda: home.stat().st_uid + 1)
    with pytest.raises(AccountError, match=r"belongs to .*: run this as that user"):
        ServerAccount.for_data_directory(home)


def test_a_lock_that_is_kept_for_too_long_is_named(home: Path) -> None:
    """No wait is without a limit."""
    path = home / "lock"
    with (
        FileLock(path).exclusive(1),
        pytest.raises(LockTimeout, match="another process has held"),
    ):
        FileLock(path).acquire_shared(0)
