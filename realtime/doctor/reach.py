"""Whether the database can be reached, by both of its addresses, and if not, which step fails."""

from __future__ import annotations

import time
from collections.abc import Sequence

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem
from realtime.postgres.pool import DATABASE_ERRORS
from realtime.postgres.reasons import reason_of


async def database(deployment: Deployment) -> Sequence[Finding]:
    """Connect and ask something, by each address, as the server does."""
    found = [await _reach(deployment, "DATABASE_URL", direct=False)]
    if deployment.has_direct:
        found.append(await _reach(deployment, "DATABASE_DIRECT_URL", direct=True))
    return found


async def _reach(deployment: Deployment, name: str, *, direct: bool) -> Finding:
    dsn = deployment.direct_dsn if direct else deployment.dsn
    began = time.perf_counter()
    try:
        async with deployment.connect(direct=direct) as connection:
            await connection.fetchval("SELECT 1")
    except DATABASE_ERRORS as error:
        said, cure = reason_of(error, dsn, name)
        return problem(f"{name}: {said}", cure)
    return fine(f"{name} answers, in {1000 * (time.perf_counter() - began):.0f} ms")
