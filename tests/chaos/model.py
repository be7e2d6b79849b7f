"""What a client has on screen that applies its events in order, and what the tables have.

Everything is kept by a name: a message, a document or a permission of the client's bot. None stands
for what is not there. A client that loaded its state knows all; others only what they were told of.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Things = Mapping[str, Any]

# Each thing as events say it. In one statement with relay.cursor it is one moment.
STATE = """
SELECT coalesce(jsonb_object_agg(name, value), '{}') AS state
  FROM (SELECT 'message ' || id, jsonb_build_array(content, role, metadata)
          FROM messages WHERE bot_id = $1::uuid
         UNION ALL SELECT 'document ' || id, to_jsonb(status)
          FROM documents WHERE bot_id = $1::uuid
         UNION ALL SELECT 'permission ' || user_id, to_jsonb(role)
          FROM permissions WHERE bot_id = $1::uuid AND user_id <> $2::uuid) AS things (name, value)
"""
"""Parameters: the bot and its owner, of whose permission nothing is told."""


@dataclass
class Model:
    """One client's, since it began anew.

    Args:
        things: what was loaded, if anything was.
    """

    things: dict[str, Any] = field(default_factory=dict)
    is_whole: bool = False
    """Whether it began with everything that there was."""

    def apply(self, message: Mapping[str, Any]) -> None:
        """One event, in the order in which they came."""
        data: Mapping[str, Any] = message.get("data") or {}
        match message["type"]:
            case "chat_message":
                self.things[f"message {data['message_id']}"] = _said(data)
            case "chat_message_update":
                gone = data["action"] == "deleted"
                self.things[f"message {data['message_id']}"] = None if gone else _said(data)
            case "document_update":
                gone = data["action"] == "deleted"
                status = None if gone else data["document"]["status"]
                self.things[f"document {data['document']['id']}"] = status
            case "permission_change":
                gone = data["action"] == "revoked"
                role = None if gone else data["details"]["role"]
                self.things[f"permission {data['target_user_id']}"] = role

    def differences(self, state: Things, ignored: Container[str]) -> Iterator[str]:
        """What is on screen and not so in the tables."""
        names = self.things.keys() | state.keys() if self.is_whole else self.things.keys()
        for name in sorted(name for name in names if name not in ignored):
            shown, is_so = self.things.get(name), state.get(name)
            if shown != is_so:
                yield f"{name}: shown {shown!r:.200}, in the table {is_so!r:.200}"


def _said(data: Mapping[str, Any]) -> list[Any]:
    return [data["content"], data["role"], data["metadata"]]
