"""Long work in slices, so that others (pings, closes, handshakes) get their turn in between."""

from collections.abc import Awaitable, Callable


class Slices:
    """Counts steps of work, and pauses after so many.

    Args:
        pause: awaited between two slices.
        size: how many steps one slice has.
    """

    def __init__(self, pause: Callable[[], Awaitable[None]], size: int) -> None:
        self._pause = pause
        self._size = size
        self._room = size
        """How many more steps there are before the next pause."""

    async def count(self) -> None:
        """Count one step that was done."""
        self._room -= 1
        if not self._room:
            self._room = self._size  # first: the pause may be cancelled, and the work go on later
            await self._pause()
