"""Tests of `realtime.config.spelling`: what was probably meant for a setting."""

from __future__ import annotations

import pytest

from realtime.config.settings import Settings
from realtime.config.spelling import misspellings

SETTINGS = [name.upper() for name in Settings.model_fields]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_slip_of_the_finger_is_found(setting: str) -> None:
    """A letter that is missing, doubled, or has changed places with the next; and small letters."""
    middle = len(setting) // 2
    swapped = setting[:middle] + setting[middle + 1] + setting[middle] + setting[middle + 2 :]
    slips = {
        setting[:middle] + setting[middle + 1 :],
        setting[:middle] + setting[middle] + setting[middle:],
        swapped,
        setting.lower(),
    }
    slips = {slip for slip in slips - {setting} if len(setting) > 4}
    assert {one.given for one in misspellings(slips, SETTINGS)} == slips - set(SETTINGS)
    assert {one.meant for one in misspellings(slips, SETTINGS)} <= {setting}


def test_names_of_other_programs_are_left_alone() -> None:
    """Also those that begin as a setting does, and those that hosts set."""
    others = """CI X TZ LC
        PATH HOME PORT DYNO DATABASE_USER DATABASE_NAME DATABASE_URL_REPLICA JWT_SECRET_KEY
        DATABASE_POOL HEROKU_POSTGRESQL_URL PGHOST PGPASSWORD LOG_LEVEL MAX_THREADS CONSOLE_USER
        WEB_MEMORY JWT_EXPIRY RETENTION_DAYS SECRET_KEY ALLOWED_HOSTS REDIS_URL TOKEN"""
    assert misspellings(others.split(), SETTINGS) == []
