"""Signing tokens on a developer's machine, with the secret that `bin/dev` made once.

The server never signs anything.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from realtime.auth.tokens import mint_token
from realtime.config.settings import Settings, SettingsError
from realtime.installation import DATA

KEY_NAMES: Final = ("JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS_URL")


def has_key(environ: Mapping[str, str]) -> bool:
    """Whether the environment says itself how tokens are verified."""
    return any(environ.get(name) for name in KEY_NAMES)


def read_secret(data: Path = DATA) -> str | None:
    """The secret for development, if there is one.

    Raises:
        SettingsError: It is there and belongs to another user.
    """
    path = data / "jwt-secret"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None
    except PermissionError:
        raise SettingsError(
            f"{path} belongs to another user: set JWT_SECRET, or delete the file"
        ) from None


def make_secret(data: Path = DATA) -> str:
    """The secret for development. It is made if there is none, and only its owner can read it."""
    if (found := read_secret(data)) is not None:
        return found
    # Under another name first: an interrupted write must not leave half a secret.
    unfinished = data / "jwt-secret.unfinished"
    unfinished.unlink(missing_ok=True)
    secret = secrets.token_hex(32)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    unfinished.rename(data / "jwt-secret")
    return secret


def mint(
    environ: Mapping[str, str],
    subject: str,
    *,
    ttl: float,
    is_admin: bool,
    now: float,
    data: Path = DATA,
) -> str:
    """Sign a token as the environment's JWT settings ask for.

    Raises:
        SettingsError: There is no secret to sign with, or a JWT setting is wrong.
    """
    given = {name: value for name, value in environ.items() if name.startswith("JWT_")}
    if not has_key(given):
        secret = read_secret(data)
        if secret is None:
            raise SettingsError(
                "JWT_SECRET is not set: set it to the server's, or run bin/dev once, "
                "which makes one for development"
            )
        given["JWT_SECRET"] = secret
    # Only the JWT settings count here; the database is never asked.
    settings = Settings.from_environ({"DATABASE_URL": "postgresql://unused/unused", **given})
    return sign(settings, subject, ttl=ttl, is_admin=is_admin, now=now)


def sign(settings: Settings, subject: str, *, ttl: float, is_admin: bool, now: float) -> str:
    """Sign a token that a server with these settings accepts.

    Raises:
        SettingsError: The server verifies with public keys, whose private part is elsewhere.
    """
    if settings.jwt_secret is None:
        raise SettingsError(
            "tokens are signed with JWT_SECRET, but a public key is configured: "
            "get the token from the owner of the private key"
        )
    return mint_token(
        settings.jwt_secret.get_secret_value(),
        subject,
        ttl=ttl,
        now=now,
        is_admin=is_admin,
        admin_claim=settings.jwt_admin_claim,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        algorithm=settings.jwt_algorithms[0],
    )
