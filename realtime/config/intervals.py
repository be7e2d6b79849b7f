"""How long the process waits, and how often it does things.

These are arguments, as clocks are: a test takes shorter ones. What an operator may want to change
is a setting in `settings.py` instead.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Intervals:
    """The waits of one process, all in seconds."""

    start: float = 10.0
    """How long the database may take to answer at the start, when no client waits yet."""
    idle_request: float = 30.0
    """How long an HTTP connection may take for the headers of the next request, however it sends
    them; so it is also how long one may be idle, and may take nothing of its answers."""
    body: float = 10.0
    """How long a request may take to send its body."""
    ping: float = 25.0
    """The time between two pings of a socket, and how long a socket may take to answer one.
    Routers of Procfile hosts cut a connection that is silent for 55 s."""
    refusal: float = 4.0
    """How long a refusal waits for the next read of the log. If none ends in time, a remembered one
    is asked for again."""
    refusal_step: float = 0.25
    """A refusal is sent at a multiple of this after its handshake began, so that its time tells
    nothing."""
    replay: float = 30.0
    """How long a client that is owed events may take none of their bytes."""
    replay_wanted: float = 2.0
    """The same while another client waits for the memory that it holds."""
    timer: float = 86_400.0
    """The longest timer that is set at once: event loops do not accept one of many years."""
    drain_step: float = 0.02
    """The longest wait between two closes while the process drains, so that a few sockets do not
    take all of the drain time."""
    last_requests: float = 0.5
    """How long a process that drains waits for requests that it had accepted already."""
    heartbeat: float = 2.0
    """The time between two updates of the process's row in `relay.nodes`."""
    access_check: float = 5.0
    """How often the process asks whether the functions that decide about access work."""
    typing_batch: float = 0.25
    """The time between two batches of typing indicators for the other processes."""
    socket_table: float = 0.25
    """How often the process writes to `relay.connections` which sockets came and left."""
    retention: float = 60.0
    """The longest time between two checks for rows of the log that are old enough to be removed."""
    hearing: float = 1.0
    """How long a test notification may take, after each connect. If it takes longer, the log is
    polled."""
    poll: float = 0.25
    """The time between two reads of the log while no notification can be heard."""
    presence: float = 0.25
    """The time between two looks at who came and left. One message tells all of it."""
    presence_read: float = 1.0
    """How often this process reads which users are on the other processes, while somebody asks."""
    presence_grace: float = 5.0
    """How long a user may be missing before they count as gone. Who reloads a page is back
    sooner."""
    typing_check: float = 0.1
    """The time between two looks at who has stopped typing, while anybody types."""
    loop_lag: float = 0.5
    """The time between two measurements of how late the event loop is."""
    worker_settled: float = 10.0
    """A worker that lives this long is restarted without the longer waits of earlier deaths."""
    worker_start: float = 60.0
    """How long new workers may take until they serve. After that the old ones stay."""
    worker_grace: float = 15.0
    """How much longer than its drain time a worker may take to end before it is killed."""


DEFAULTS = Intervals()
