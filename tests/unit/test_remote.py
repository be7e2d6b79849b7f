"""Tests of `realtime.relay.remote`: what a process says of its own sockets."""

from realtime.relay.protocol import SOCKET_TOPIC
from realtime.relay.remote import ConnectedSocket, connected
from tests.unit.relay_fakes import ADA, BOT, GRACE, OTHER_BOT, join, make_hub, make_subscriber


def test_a_socket_has_its_subscriptions() -> None:
    """They are no sockets of their own; and whose user is not known yet has no name."""
    hub = make_hub()
    chat, _ = join(hub, GRACE)
    socket, _ = join(hub, topic=SOCKET_TOPIC)
    chat.connection_id, socket.connection_id = "chat", "socket"
    for topic in (OTHER_BOT, BOT):
        join(hub, topic=topic, socket_id="socket")
    unknown, _ = make_subscriber()
    found = {one.connection_id: one for one in connected([*hub.subscribers, unknown], "n")}
    assert found == {
        "chat": ConnectedSocket("chat", "n", BOT, GRACE, f"{GRACE}'s name", 0.0, False),
        "socket": found["socket"],
        "c1": ConnectedSocket("c1", "n", BOT, "", "", 0.0, False),
    }
    assert (found["socket"].user_id, found["socket"].topic) == (ADA, SOCKET_TOPIC)
    assert sorted(found["socket"].topics) == [BOT, OTHER_BOT]
