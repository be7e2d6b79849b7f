"""Who and what `demo.sql` inserts, and what the demo's people are called where ids are needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from realtime.auth.signing import has_key, read_secret

BOT_ID: Final = "00000000-0000-4000-8000-0000000000b1"
SESSION_ID: Final = "00000000-0000-4000-8000-0000000000c1"
PEOPLE: Final = {
    "ada": "00000000-0000-4000-8000-0000000000a1",
    "grace": "00000000-0000-4000-8000-0000000000a2",
    "linus": "00000000-0000-4000-8000-0000000000a3",
}


def subject_for(environ: Mapping[str, str], given: str) -> str:
    """The subject of a token for `given`, who may be called by name where they are of the demo."""
    if environ.get("JWT_SUBJECT") == "username" or not is_of_the_demo(environ):
        return given
    return PEOPLE.get(given, given)


def is_of_the_demo(environ: Mapping[str, str]) -> bool:
    """Whether tokens are signed with the secret that `bin/dev` made."""
    return not has_key(environ) or environ.get("JWT_SECRET") == read_secret()
