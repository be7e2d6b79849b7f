"""What every scenario is, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tests.benchmarks.contenders import Contender, running
from tests.benchmarks.database import Database
from tests.benchmarks.generator import LoadGenerator, load_generator
from tests.benchmarks.packages import Packages
from tests.benchmarks.processes import ServerProcess

Figures = dict[str, float]
"""What one measurement yielded, by the figure's name (see `figures.py`)."""


@dataclass(frozen=True)
class Bench:
    """The surroundings of a measurement.

    Attributes:
        is_quick: a smoke run: small loads, figures that mean nothing.
        soak_seconds: how long the soak takes.
    """

    database: Database
    packages: Packages
    is_quick: bool
    soak_seconds: int
    say: Callable[[str], None]

    @contextmanager
    def contest(
        self,
        contender: Contender,
        *,
        arguments: tuple[str, ...] = (),
        settings: dict[str, str] | None = None,
    ) -> Iterator[tuple[ServerProcess, LoadGenerator]]:
        """A contender and a load generator for it."""
        self.database.rest()
        with (
            running(
                contender, self.database, self.packages, arguments=arguments, settings=settings
            ) as server,
            load_generator(server.port, contender.dialect) as generator,
        ):
            yield server, generator


class Scenario(Protocol):
    """One row of the goals; `measure` is called once per contender and round."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def contenders(self) -> tuple[Contender, ...]: ...

    @property
    def rounds(self) -> int | None:
        """How often at most; None: as often as the command line says."""

    def describe(self, is_quick: bool) -> str:
        """The load, in words."""

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        """Put the load on one contender."""
