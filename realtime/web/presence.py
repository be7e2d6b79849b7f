"""GET /api/ws/presence/{bot_id}: who is on a bot at this moment, in all processes.

For whoever may watch the bot themselves. Routed by `app`.
"""

from realtime.relay import closing
from realtime.relay.closing import CloseCode
from realtime.relay.errors import Refused
from realtime.relay.protocol import bot_topic, canonical_uuid
from realtime.web.endpoints import JsonHandler

STATUS = {CloseCode.UNAUTHENTICATED: 401, CloseCode.ACCESS_DENIED: 403}
"""What the refusals of a socket are over HTTP; all else passes, and is 503."""


class PresenceHandler(JsonHandler):
    async def get(self, given: str) -> None:
        subject = (await self.identity()).subject
        bot_id = canonical_uuid(given)
        try:
            if bot_id is None:
                raise Refused(*closing.ACCESS_DENIED)
            await self._services.access.authorize(subject, bot_id)
            listing = await self._services.presence.now(bot_topic(bot_id))
        except Refused as refused:
            self.refuse(refused.reason, STATUS.get(CloseCode(refused.code), 503))
        self.answer({"bot_id": bot_id, **listing.told()})
