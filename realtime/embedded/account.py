"""Which system account the embedded server runs as when we are root, and how it gets in.

PostgreSQL refuses to run as root. An ordinary user needs none of this.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realtime.errors import CommandError

# In order: Debian's own account for it, then one that every Unix has.
CANDIDATES = ("postgres", "nobody")


class AccountError(CommandError):
    """No account can run the server on this data directory."""


@dataclass(frozen=True)
class ServerAccount:
    """An unprivileged account that exists."""

    name: str
    uid: int
    gid: int

    @classmethod
    def for_data_directory(cls, data_directory: Path) -> ServerAccount | None:
        """The account to run as; None: ourselves.

        Raises:
            AccountError: The directory is another user's, or there is no account to run as.
        """
        owner = data_directory.stat().st_uid if data_directory.exists() else None
        if os.geteuid() != 0:
            if owner not in (None, os.geteuid()):
                raise AccountError(
                    f"{data_directory} belongs to {_name(owner)}: run this as that user "
                    "or as root, or delete the directory"
                )
            return None
        # An ordinary user's directory stays theirs when root comes by.
        if owner:
            return cls(_name(owner), owner, data_directory.stat().st_gid)
        return cls._first_existing()

    @classmethod
    def _first_existing(cls) -> ServerAccount:
        for name in CANDIDATES:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)
        raise AccountError(
            f"PostgreSQL does not run as root and there is no account {' or '.join(CANDIDATES)}: "
            "run this as an ordinary user, or set DATABASE_URL"
        )

    def for_subprocess(self) -> dict[str, Any]:
        """Arguments for `subprocess.run`."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def may(self, found: os.stat_result, owner_bit: int) -> bool:
        """Whether the account has this permission, named by the owner's bit."""
        if found.st_uid == self.uid:
            return bool(found.st_mode & owner_bit)
        if found.st_gid == self.gid:
            return bool(found.st_mode & owner_bit >> 3)
        return bool(found.st_mode & owner_bit >> 6)


def open_the_way(
    account: ServerAccount, bin_dir: Path, data_directory: Path, *, say: Callable[[str], None]
) -> None:
    """Let the account reach the programs and the data, changing no more than it must."""
    wanted = {*bin_dir.parents, *bin_dir.resolve().parents, *data_directory.parents}
    closed = sorted(d for d in wanted if not account.may(d.stat(), stat.S_IXUSR))
    for directory in closed:
        directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
    program = (bin_dir / "postgres").stat()
    if not (account.may(program, stat.S_IXUSR) and account.may(bin_dir.stat(), stat.S_IXUSR)):
        closed += _open_installation(bin_dir.resolve().parent)
    if closed:
        names = ", ".join(map(str, closed))
        say(f"PostgreSQL runs as {account.name}, which may now pass through (o+x): {names}")


def _open_installation(root: Path) -> list[Path]:
    """Make programs readable that were unpacked under a strict umask."""
    # A wheel keeps the shared libraries that it brings beside the package.
    libraries = root.parent.with_name(f"{root.parent.name}.libs")
    trees = [tree for tree in (root, libraries) if tree.is_dir()]
    for tree in trees:
        for path in (tree, *tree.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                execute = stat.S_IXOTH if mode & stat.S_IXUSR else 0
                path.chmod(mode | stat.S_IROTH | execute)
    return trees


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return f"user {uid}"
