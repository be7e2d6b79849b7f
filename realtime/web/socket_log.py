"""The log's lines about one socket: when it opened, was closed and was gone.

Each line has the connection's id. None has a token, or anything that a client sent.
"""

import logging

from realtime.log_line import Field, LogLine
from realtime.relay.closing import CloseCode
from realtime.relay.protocol import canonical_uuid
from realtime.relay.subscriber import Subscriber
from realtime.web.services import Services

log = logging.getLogger("realtime.socket")

ABNORMAL = 1006
"""In logs and counts only: the connection broke off, without a close frame (RFC 6455, 7.1.5)."""


def socket_line(
    event: str, connection_id: str, subscriber: Subscriber | None, **more: Field
) -> LogLine:
    """Make a line about a socket, with its user and topic as far as they are known."""
    user_id, topic = (subscriber.user_id, subscriber.topic) if subscriber else (None, None)
    return LogLine(event, connection=connection_id, user=user_id, topic=topic, **more)


def log_unfit_subject(services: Services, connection_id: str, subject: str, code: int) -> None:
    """Say which setting to look at, if the token's `sub` is of the other kind and nobody is meant.

    Args:
        code: what the socket is refused with.
    """
    is_uuid, kind = canonical_uuid(subject) is not None, services.settings.jwt_subject
    if code == CloseCode.UNAUTHENTICATED and is_uuid != (kind == "id"):
        found = "a UUID" if is_uuid else "no UUID"
        log.info(LogLine("subject_unfit", connection=connection_id, jwt_subject=kind, sub=found))


def log_gone(
    services: Services,
    connection_id: str,
    subscriber: Subscriber | None,
    *,
    ours: int | None,
    theirs: int | None,
) -> None:
    """Count and log that a socket is gone.

    Args:
        ours: the code that this server closed it with; None: it did not.
        theirs: the code that the client closed it with, 1005 where it gave none; None: the
            connection broke off.
    """
    code = ours or theirs or ABNORMAL
    services.counters.gone(code, is_ours=ours is not None)
    seconds = round(services.clock() - subscriber.opened_at, 3) if subscriber else None
    log.info(socket_line("socket_ended", connection_id, subscriber, code=code, seconds=seconds))
