"""The HTTP endpoint that tells who is present on a bot, in all processes."""

from realtime.relay import closing
from realtime.relay.errors import Refused
from realtime.relay.protocol import bot_topic, canonical_uuid
from realtime.web.handlers import JsonHandler


class PresenceHandler(JsonHandler):
    """GET /api/ws/presence/{bot_id}: for every user who may open a socket on the bot."""

    async def get(self, given: str) -> None:
        subject = (await self.token_identity()).subject
        bot_id = canonical_uuid(given)
        async with self.refusing():
            if bot_id is None:
                raise Refused(*closing.ACCESS_DENIED)
            with self._services.room.joining(subject):
                await self._services.access.authorize(subject, bot_id)
                listing = await self._services.presence.now(bot_topic(bot_id))
        self.answer({"bot_id": bot_id, **listing.told()})
