"""What every handler and socket is given: the parts of this process that a request may need.

Parts that ask the database are named here as small Protocols.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from realtime.auth.tokens import TokenVerifier
from realtime.config.intervals import Intervals
from realtime.config.settings import Settings
from realtime.relay.admission import AdmissionBatcher
from realtime.relay.budget import ReadBudget
from realtime.relay.counters import Counters
from realtime.relay.cursor import Cursor
from realtime.relay.hub import Hub
from realtime.relay.presence import PresenceBroadcaster
from realtime.relay.refusals import Refusals
from realtime.relay.remote import RemoteSockets
from realtime.relay.resume import ResumeBatcher
from realtime.relay.room import Room
from realtime.relay.typing import TypingBroadcaster
from realtime.web.demo_platform import DemoPlatform
from realtime.web.metrics_source import MetricsSource
from realtime.web.openings import Openings
from realtime.web.pings import Pings
from realtime.web.status import Status


@dataclass(frozen=True)
class Services:
    """The parts of this process that a request may need."""

    settings: Settings
    intervals: Intervals
    hub: Hub
    access: AdmissionBatcher
    verifier: TokenVerifier
    typing: TypingBroadcaster
    presence: PresenceBroadcaster
    refusals: Refusals
    room: Room
    openings: Openings
    history: ResumeBatcher
    read_budget: ReadBudget
    remote_sockets: RemoteSockets
    node_id: str
    """The id of this process in `relay.nodes`."""
    pings: Pings
    counters: Counters
    metrics: MetricsSource
    clock: Callable[[], float]
    """Tells the time in epoch seconds."""
    monotonic: Callable[[], float]
    """Tells the time in seconds since some moment. It never goes back."""
    random: Callable[[], float]
    """A number from 0 to 1, another one each time."""
    new_id: Callable[[], str]
    """Makes a new id for a connection."""
    loop: asyncio.AbstractEventLoop
    """That of all requests. To ask which loop runs is a system call, each time."""
    status: Status
    demo: DemoPlatform | None
    """What `bin/dev` has for its console; no other process has one."""

    def cursor_text(self, cursor: Cursor, topic: str) -> str | None:
        """A cursor for clients of a topic; None where there is none (see `Signer.write`)."""
        return self.hub.position.signer.write(cursor, topic)

    async def refuse_evenly(self, began: float) -> None:
        """Wait until a refusal may be sent: a multiple of `intervals.refusal_step` after `began`.

        So the time that it takes does not say how it came about: whether the bot exists, whether
        the answer was known, whether somebody was granted access since.
        """
        step = self.intervals.refusal_step
        await asyncio.sleep(step - (self.monotonic() - began) % step)
