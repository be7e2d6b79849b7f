"""All exceptions of this package, and the one that a command reports in a line.

A `CommandError` is reported to whoever runs a command: one line on standard error, exit code 1.

    CommandError
    ├── SettingsError            a setting is missing or wrong
    ├── StartError               the port is taken, or the database cannot be reached
    ├── SchemaError              the database's schema is not this release's
    ├── WrongServer              a standby, or a pooler where a direct connection is needed
    ├── ReleaseError             a migration failed
    ├── RotateError              a secret could not be changed
    ├── MappingError             the mapping of bin/attach is wrong
    ├── AttachError              the mapping does not fit the tables
    ├── TailError                bin/tail has no address or user, or the server closed for good
    ├── DoctorError              bin/doctor cannot answer the question
    ├── EmbeddedPostgresError    the embedded PostgreSQL could not be started
    ├── AccountError             no system account can run it
    └── LockTimeout              another bin/dev holds a lock

These are reported to a client, by a close code or an error message:

    Refused                      a socket may not open, or may not stay
    MessageError                 a client's message cannot be accepted
    TokenError                   a token is not valid
    KeysUnavailable              the keys that verify tokens cannot be fetched
    InvalidCursor                a cursor is not one of ours
    ForeignCursor                a cursor is of another database or history
    Unrecoverable                missed events cannot be sent any more
    _Violation                   a frame breaks the WebSocket protocol
    BufferFull                   a client takes too little of what it is sent

`realtime.simulate` imports nothing of the server's, and has its own:

    SimulateError                the database is no place to simulate in; the command line says it
    Unreachable                  a SimulateError: the database cannot be reached

These are caught where they are raised:

    DemoRefused                  the demo's platform cannot do it; its API answers with the text
    DerivedError                 a value of a mapping cannot be worked out; `MappingError` says it
    _InUse                       a table is locked by others; bin/attach tries again
    Unread                       nobody reads the log; its lines are counted

A `TemplateError` is a mistake in the SQL templates, which the tests find.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from realtime.installation import as_called


class CommandError(Exception):
    """A command cannot go on. The text says what to do."""


@contextmanager
def say_and_exit() -> Iterator[None]:
    """Turn a `CommandError` into its line on standard error, and exit code 1."""
    try:
        yield
    except CommandError as error:
        print(f"error: {as_called(str(error))}", file=sys.stderr)
        sys.exit(1)
