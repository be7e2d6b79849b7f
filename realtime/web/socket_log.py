"""A socket's lines in the log: how it came in, was closed and went, each with its connection's id.

Written by `conversation`, all under one logger. Never a token or what a client sent.
"""

import logging

from realtime.relay.subscriber import Subscriber
from realtime.runtime.logging import Line
from realtime.web.services import Services

log = logging.getLogger("realtime.socket")

ABNORMAL = 1006
"""In logs and counts only: the connection broke off without a code (RFC 6455 section 7.1.5)."""


def about(
    what: str, connection_id: str, subscriber: Subscriber | None, **more: str | float | None
) -> Line:
    """A line on a socket, and whose it is, as far as that is known (a subscriber, its user)."""
    user_id, topic = (subscriber.user_id, subscriber.topic) if subscriber else (None, None)
    return Line(what, connection=connection_id, user=user_id, topic=topic, **more)


def note_end(
    services: Services,
    connection_id: str,
    subscriber: Subscriber | None,
    *,
    ours: int | None,
    theirs: int | None,
) -> None:
    """Count and log that a socket is gone.

    Args:
        ours: the code that this server closed it with.
        theirs: the client's; None: it broke off.
    """
    code = ours or theirs or ABNORMAL
    services.counters.gone(code, is_ours=ours is not None)
    seconds = round(services.clock() - subscriber.opened_at, 3) if subscriber else None
    log.info(about("gone", connection_id, subscriber, code=code, seconds=seconds))
