"""Why the server closes a socket: every code with every reason, in one table.

The numbers are RFC 6455 section 7.4 and, from 4000, the platform's own. A reason goes into the
close frame and into the log: it says what happened and, where that is not clear, what the client
should do. docs/protocol.md has the same table. 4001 also comes with the words of
`auth.tokens.TokenReason`, and a row of the log may give any code to `ACCESS_ENDED`. To find out who
closes with a reason, search for its name here.
"""

from enum import IntEnum
from typing import Final, NamedTuple


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


def may_be_sent(code: int) -> bool:
    """Whether a close frame may have this code: RFC 6455 section 7.4, and IANA's registry."""
    is_registered = code in range(1000, 1015) and code not in (1004, 1005, 1006)
    return is_registered or code in range(3000, 5000)


class Closing(NamedTuple):
    """A close code and its reason, which may have 123 bytes (RFC 6455 section 5.5)."""

    code: CloseCode
    reason: str


RESTARTING: Final = Closing(CloseCode.GOING_AWAY, "the server is restarting: connect again")

PROTOCOL_ERROR: Final = Closing(CloseCode.PROTOCOL_ERROR, "the client broke the WebSocket protocol")
BINARY_FRAME: Final = Closing(
    CloseCode.UNSUPPORTED_DATA, "binary frames are not accepted: send JSON as text"
)
NOT_UTF8: Final = Closing(CloseCode.INVALID_DATA, "the client sent text that is not UTF-8")
RATE_LIMITED: Final = Closing(
    CloseCode.POLICY_VIOLATION, "the client kept sending above the rate limit"
)
TOO_MANY_FRAMES: Final = Closing(
    CloseCode.POLICY_VIOLATION, "the client sent one message in too many frames"
)
MESSAGE_TOO_BIG: Final = Closing(
    CloseCode.MESSAGE_TOO_BIG, "the client sent a message above MAX_MESSAGE_BYTES"
)
SERVER_ERROR: Final = Closing(
    CloseCode.INTERNAL_ERROR, "unexpected error in the server: its log has more"
)

DATABASE_AWAY: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "the database cannot be asked at the moment"
)
KEYS_AWAY: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "the keys that verify tokens cannot be fetched at the moment"
)
PROCESS_FULL: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "this process is full: it has MAX_CONNECTIONS sockets"
)
JOINING_TOO_MANY: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "this user opens too many connections at the same time"
)
TOO_MANY_IN_ALL: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "this user has too many connections in all processes"
)
"""Not 4029, which is final: those of a process that has just ended are counted for some seconds."""
USER_RENAMED: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "the user was renamed while connecting: connect again"
)
PING_TIMED_OUT: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "the client did not answer a ping in time"
)
TOO_SLOW: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "the client reads too slowly: connect again with the cursor"
)
REPLAY_TOO_SLOW: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "the client reads missed events too slowly: connect again"
)
HELD_TOO_MUCH: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "too many events came while access was checked: connect again"
)
EVENTS_MISSED: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "events were missed: connect again and fetch the state"
)
ACCESS_CHANGED: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "access changed and is still given: connect again"
)

USER_UNKNOWN: Final = Closing(CloseCode.UNAUTHENTICATED, "user unknown or deactivated")
OTHER_USER: Final = Closing(CloseCode.UNAUTHENTICATED, "the new token is for another user")

ACCESS_DENIED: Final = Closing(CloseCode.ACCESS_DENIED, "bot not found or access denied")
ACCESS_ENDED: Final = Closing(CloseCode.ACCESS_DENIED, "access ended")
"""The log's row may have another code; then that is used."""

TOO_MANY_CONNECTIONS: Final = Closing(
    CloseCode.TOO_MANY_CONNECTIONS, "this user has too many connections: close one first"
)

# Of a subscription at `/api/ws`; the socket stays open.
UNSUBSCRIBED: Final = Closing(CloseCode.NORMAL, "the client unsubscribed")
SUBSCRIBING_TOO_OFTEN: Final = Closing(
    CloseCode.TRY_AGAIN_LATER, "the client subscribes too often: wait, then subscribe again"
)
TOO_MANY_SUBSCRIPTIONS: Final = Closing(
    CloseCode.TOO_MANY_CONNECTIONS, "this socket has MAX_SUBSCRIPTIONS subscriptions: end one first"
)
