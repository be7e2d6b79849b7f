"""The codes that close a socket and the codes of error replies.

Used by everything that may end a connection. The numbers are RFC 6455 section 7.4 and, from 4000,
the platform's own; the words become the close frame's reason.
"""

from enum import IntEnum, StrEnum


class CloseCode(IntEnum):
    """Why the server closes a socket; what a client should do about it is in docs/protocol.md."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    UNAUTHENTICATED = 4001
    ACCESS_DENIED = 4003
    TOO_MANY_CONNECTIONS = 4029


class ErrorCode(StrEnum):
    """What was wrong with a client's message; the connection stays open."""

    INVALID_JSON = "invalid_json"
    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_TYPE = "unknown_type"
    RATE_LIMITED = "rate_limited"


class MessageError(Exception):
    """A client's message could not be accepted; it is answered with an `error` message."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Refused(Exception):
    """A socket may not open, or may not stay: it is closed with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
