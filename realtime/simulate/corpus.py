"""What simulated people are called and talk about: `corpus.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("corpus.toml")


@dataclass(frozen=True)
class Topic:
    """A subject for a bot, with its questions and answers."""

    names: list[str]
    """What the bot is called, at first and after it was renamed."""
    description: str
    documents: list[str]
    talk: list[tuple[str, str]]
    """Questions, each with its answer."""


@dataclass(frozen=True)
class Corpus:
    """All texts of the simulation."""

    topics: list[Topic]
    first_names: list[str]
    last_names: list[str]
    models: list[str]
    thanks: list[str]
    failures: list[str]
    """Why a document could not be read."""
    polls: list[str]

    def username(self, number: int) -> str:
        """Of the person with this number, from 0: everyone's is another."""
        first, last = len(self.first_names), len(self.last_names)
        round_, index = divmod(number, first)
        name = f"{self.first_names[index]}.{self.last_names[(index + round_) % last]}"
        return name if round_ < last else f"{name}.{round_ // last + 1}"


def read(file: Path = FILE) -> Corpus:
    """The corpus, its line breaks taken out."""
    data = tomllib.loads(file.read_text("utf-8"))
    topics = [
        Topic(
            **topic | {"talk": [(asked, " ".join(said.split())) for asked, said in topic["talk"]]}
        )
        for topic in data.pop("topics")
    ]
    return Corpus(topics=topics, **data)
