"""The command `realtime`: which commands there are, for whom, and the help that lists them.

A command's module is imported when the command is called, so that the help and the small commands
answer at once.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Final

import click

from realtime import __version__
from realtime.errors import say_and_exit

SECTIONS: Final = {
    "For users of the events": {
        "tail": "Print what happens on a bot, a line for each event",
        "token": "Print a signed token",
    },
    "For operators": {
        "migrate": "Bring the schema of the database up to date",
        "attach": "Put the triggers onto tables of your own",
        "serve": "Serve WebSockets and HTTP, with settings from the environment",
        "doctor": "Say what is wrong with a deployment, and what to do",
        "rotate": "Change a secret of the database while servers run",
    },
    "For developers": {
        "dev": "Serve a demo on a database of its own",
        "simulate": "Write rows as the users of a busy platform would",
    },
}
"""What each command does, in the order of the help. Its module is `realtime.cli.<name>`."""
NAMES: Final = tuple(name for section in SECTIONS.values() for name in section)
CLOSING: Final = """\
`realtime COMMAND --help` says more, with an example. Settings come from the
environment: README.md lists them. In a checkout, `bin/COMMAND` does the same."""


CHECKOUT: Final = "bin"
"""How the program is called in a checkout, where its commands are `bin/serve` and so on."""


class _Context(click.Context):
    """In a checkout, a command's own name is all of its path. NO_COLOR is honoured by all."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if os.environ.get("NO_COLOR"):  # https://no-color.org; click does not know it
            self.color = False

    @property
    def command_path(self) -> str:
        return "" if self.info_name == CHECKOUT else super().command_path


class Commands(click.Group):
    """Commands in sections, each in a module of its own.

    A `CommandError` in any of them is one line on standard error, and exit code 1.
    """

    context_class = _Context

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and ctx.info_name == CHECKOUT:
            name = f"{CHECKOUT}/{name}"
            for one in (command, *getattr(command, "commands", {}).values()):
                one.help = (one.help or "").replace("realtime ", f"{CHECKOUT}/")
        return name, command, rest

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NAMES:
            return None
        command: click.Command = import_module(f"realtime.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        with say_and_exit():
            return super().invoke(ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, NAMES))
        usage = f"{ctx.command_path} " if ctx.command_path else f"{CHECKOUT}/"
        formatter.write(f"{self.help}\n\nUsage: {usage}COMMAND [OPTIONS]\n")
        for heading, section in SECTIONS.items():
            formatter.write(f"\n{click.style(heading, bold=True)}\n")
            rows = [(click.style(name.ljust(width), fg="cyan"), section[name]) for name in section]
            with formatter.indentation():
                formatter.write_dl(rows, col_spacing=3)
        formatter.write("\n")
        formatter.write_text(CLOSING)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Rowcast sends each change of PostgreSQL rows to WebSockets.",
)
@click.version_option(__version__, prog_name="Rowcast", message="%(prog)s %(version)s")
def main() -> None:
    """Run the command line, with the options that all commands have."""
