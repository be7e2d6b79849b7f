"""What needs no database: the settings, the keys that tokens are verified with, open files.

The settings themselves are checked by `realtime.config.settings`, as the server does; so are the
length of a secret and whether a public key is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tornado.httpclient import HTTPError

from realtime.auth.keys import FETCH_SECONDS, fetch_key_set, parse_key_set
from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem, warning
from realtime.postgres.reasons import words

OTHER_FILES = 100
"""What a process has open besides clients and its pool: its code, logs, listening sockets, and what
the server itself keeps free (`runtime/parts.py`). Ample, for this is only advice."""


async def settings(deployment: Deployment) -> Sequence[Finding]:
    """Check whether a server would accept the settings."""
    if deployment.complaint:
        return [
            problem(
                deployment.complaint,
                "set it in the server's environment or ENV_FILE; the README lists all settings",
            )
        ]
    return [
        warning(str(one), f"rename {one.given} to {one.meant}, or remove it")
        for one in deployment.misspelt
    ] or [fine("every setting can be used")]


async def token_keys(deployment: Deployment) -> Sequence[Finding]:
    """Whether there is something to verify tokens with; an issuer's keys are fetched."""
    url = deployment.settings.jwt_jwks_url
    names = ", ".join(deployment.settings.jwt_algorithms)
    if url is None:
        kind = "JWT_SECRET" if deployment.settings.jwt_secret is not None else "JWT_PUBLIC_KEY"
        return [fine(f"tokens are verified with {kind} ({names})")]
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            body = await fetch_key_set(url)
    except (OSError, HTTPError) as error:  # a TimeoutError is an OSError
        return [
            problem(
                f"JWT_JWKS_URL cannot be fetched ({words(error)}): no token can be verified",
                "open the address from this host; correct JWT_JWKS_URL or the way there",
            )
        ]
    try:
        keys = parse_key_set(body, deployment.settings.jwt_algorithms)
    except ValueError as error:
        # A JSON parser's words may hold what it read.
        said = str(error) if type(error) is ValueError else "it is not JSON"
        return [
            problem(
                f"JWT_JWKS_URL has no key to verify tokens with: {said}",
                f"point it at the issuer's JWK set, or have JWT_ALGORITHMS ({names}) fit its keys",
            )
        ]
    return [fine(f"JWT_JWKS_URL has {len(keys)} of use ({names})")]


async def open_files(deployment: Deployment) -> Sequence[Finding]:
    """Whether the system lets a process have as many sockets as the settings do."""
    sockets = deployment.settings.max_connections
    needed = sockets + deployment.settings.database_pool_size + OTHER_FILES
    allowed = deployment.open_files
    if allowed < needed:
        return [
            warning(
                f"MAX_CONNECTIONS is {sockets}, but a process may open only {allowed} files here",
                f"raise it with `ulimit -n {needed}` where the server starts, or lower"
                f" MAX_CONNECTIONS to {max(1, allowed - (needed - sockets))}",
            )
        ]
    return [fine(f"a process may open {allowed}: enough for MAX_CONNECTIONS={sockets}")]
