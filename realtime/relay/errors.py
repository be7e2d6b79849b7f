"""What is wrong with a client's message, and why a socket may not open or stay."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.relay.protocol import Target


class ErrorCode(StrEnum):
    """What is wrong with a client's message. The connection stays open."""

    INVALID_JSON = "invalid_json"
    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_TYPE = "unknown_type"
    RATE_LIMITED = "rate_limited"
    ALREADY_SUBSCRIBED = "already_subscribed"
    NOT_SUBSCRIBED = "not_subscribed"


class MessageError(Exception):
    """A client's message could not be accepted; it is answered with an `error` message."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.target: Target | None = None
        """On a socket for many topics: which subscription it is about. None: about none."""


class Refused(Exception):
    """A socket may not open, or may not stay: it is closed with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
