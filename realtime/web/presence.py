"""The HTTP endpoint that tells who is present on a bot, in all processes."""

from realtime.relay import closing
from realtime.relay.closing import CloseCode
from realtime.relay.errors import Refused
from realtime.relay.protocol import bot_topic, canonical_uuid
from realtime.web.handlers import JsonHandler

HTTP_STATUSES = {CloseCode.UNAUTHENTICATED: 401, CloseCode.ACCESS_DENIED: 403}
"""The HTTP status for a close code. All other refusals are temporary: 503."""


class PresenceHandler(JsonHandler):
    """GET /api/ws/presence/{bot_id}: for every user who may open a socket on the bot."""

    async def get(self, given: str) -> None:
        subject = (await self.identity()).subject
        began = self._services.monotonic()
        bot_id = canonical_uuid(given)
        try:
            if bot_id is None:
                raise Refused(*closing.ACCESS_DENIED)
            await self._services.access.authorize(subject, bot_id)
            listing = await self._services.presence.now(bot_topic(bot_id))
        except Refused as refused:
            await self._services.refuse_evenly(began)
            self.refuse(refused.reason, HTTP_STATUSES.get(CloseCode(refused.code), 503))
        self.answer({"bot_id": bot_id, **listing.told()})
