"""Tests of `realtime.config.env_file`: settings from a file, over those of the environment."""

import os
from pathlib import Path

import pytest

from realtime.config.env_file import with_env_file
from realtime.config.settings import SettingsError


def read(path: Path, text: str, **environ: str) -> dict[str, str]:
    path.write_text(text)
    found = dict(with_env_file({"ENV_FILE": str(path), **environ}))
    assert found.pop("ENV_FILE") == str(path)
    return found


def test_without_the_setting_the_environment_stays() -> None:
    """Also where a host left an empty one behind."""
    assert with_env_file({"PORT": "1"}) == {"PORT": "1"}
    assert with_env_file({"PORT": "1", "ENV_FILE": ""}) == {"PORT": "1", "ENV_FILE": ""}


def test_the_file_wins(tmp_path: Path) -> None:
    """A reload is to bring what it says; the environment of a process stays as it was."""
    assert read(tmp_path / "env", "PORT=2\n", PORT="1", A="b") == {"PORT": "2", "A": "b"}


def test_what_shells_and_systemd_write_is_read(tmp_path: Path) -> None:
    """Comments, `export`, quotation marks, and values with anything in them."""
    text = (
        "\ufeff# settings\n\nexport A=1\n  B=2 \nC='x # y'\nD=\"postgres://u:p=1@h/d\"\nE=\n"
        'F=a#b\nG=\'say "a\\b$c"\'\nH="it\'s"\nI=\'\'\nJWT_PUBLIC_KEY="a\\nb"\n'
    )
    assert read(tmp_path / "env", text) == {
        "A": "1",
        "B": "2",
        "C": "x # y",
        "D": "postgres://u:p=1@h/d",
        "E": "",
        "F": "a#b",
        "G": 'say "a\\b$c"',
        "H": "it's",
        "I": "",
        "JWT_PUBLIC_KEY": "a\\nb",
    }


@pytest.mark.parametrize(
    "value",
    [
        '"hunter2" # ours',
        "'hunter2' # ours",
        "hunter2 # ours",
        "hunter2 other",
        "'hunter2' 'other'",
        "hunter2'",
        "'hunter2",
        '"hunter2',
        "hunt'er'2",
        '"hunter2\\"quoted"',
        '"hunter2\\\\"',
        "hunter2\\n",
        "hunter2\\",
        "hunter2;true",
        "a?b=hunter2&c=d",
        "hunter2|b",
        "$hunter2",
        '"hunter2$b"',
        "`hunter2`",
        "~/hunter2",
        "/a:~/hunter2",
    ],
)
def test_a_value_that_others_read_in_another_way_is_refused(tmp_path: Path, value: str) -> None:
    """A shell ends it earlier, or systemd later, or both take something away from it."""
    with pytest.raises(SettingsError, match=r"in line 2, a value that .* read alike") as caught:
        read(tmp_path / "env", f"A=1\nB={value}\n")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("line", ["hunter2", "A b=hunter2", "=hunter2", "1=hunter2", "é=hunter2"])
def test_a_line_that_is_none_is_named_and_not_repeated(tmp_path: Path, line: str) -> None:
    """It may hold a secret."""
    with pytest.raises(SettingsError, match="must have NAME=value in line 2") as caught:
        read(tmp_path / "env", f"A=1\n{line}\n")
    assert "hunter2" not in str(caught.value)


def test_lines_that_end_as_on_windows_are_refused(tmp_path: Path) -> None:
    """A shell would keep a part of the end."""
    (tmp_path / "env").write_bytes(b"A=1\nB=hunter2\r\n")
    with pytest.raises(SettingsError, match="the CR of line 2 as part") as caught:
        with_env_file({"ENV_FILE": str(tmp_path / "env")})
    assert "hunter2" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """One that is not there, a folder, a pipe, and what is no text."""
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(SettingsError, match=r"^ENV_FILE .* cannot be read: "):
            with_env_file({"ENV_FILE": str(path)})
    (tmp_path / "bytes").write_bytes(b"A=\xff")
    with pytest.raises(SettingsError, match="must be UTF-8 text"):
        with_env_file({"ENV_FILE": str(tmp_path / "bytes")})
