"""A distribution as whoever runs `pip install` has it: built as a wheel, away from any checkout."""

from __future__ import annotations

import site
import subprocess
import sys
from pathlib import Path

from tests.commands import environment

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


class Installed:
    """A virtual environment that has the wheel, and the tests' own packages behind it.

    Args:
        home: an empty folder.
        project: the folder of the distribution's pyproject.toml.
    """

    def __init__(self, home: Path, project: Path) -> None:
        self.venv = home / "venv"
        self.elsewhere = home / "elsewhere"
        self.elsewhere.mkdir()
        offline = ["--no-deps", "--no-index"]
        run(*PIP, "wheel", *offline, "--no-build-isolation", "-w", str(home), str(project))
        (wheel,) = home.glob("*.whl")
        run(sys.executable, "-m", "venv", "--without-pip", str(self.venv))
        python = str(self.venv / "bin" / "python")
        run(*PIP, "--python", python, "install", *offline, str(wheel))
        (packages,) = self.venv.glob("lib/python*/site-packages")
        (packages / "tests.pth").write_text("\n".join(site.getsitepackages()))

        # Somebody's own package of that name, where the commands are called.
        (self.elsewhere / "migrations").mkdir()
        (self.elsewhere / "migrations" / "__init__.py").write_text("raise RuntimeError('not ours')")

    def command(self, *arguments: str) -> list[str]:
        return [str(self.venv / "bin" / arguments[0]), *arguments[1:]]

    def run(self, *arguments: str, **ours: str) -> str:
        return run(*self.command(*arguments), cwd=self.elsewhere, env=environment(**ours))


def run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
