"""The chaos suite's model of a screen: what it shows that is not so is found."""

from __future__ import annotations

from typing import Any

from tests.chaos.model import Model


def message(content: str, kind: str = "chat_message", **data: Any) -> dict[str, Any]:
    said = {"message_id": "1", "content": content, "role": "user", "metadata": {}}
    return {"type": kind, "data": said | data}


def test_the_last_event_of_a_thing_counts() -> None:
    """A text that was edited before the message came is no longer what the table has."""
    model = Model()
    model.apply(message("new", "chat_message_update", action="edited"))
    assert list(model.differences({"message 1": ["new", "user", {}]}, {"permission ada"})) == []
    model.apply(message("old"))
    (found,) = model.differences({"message 1": ["new", "user", {}]}, {"permission ada"})
    assert found.startswith("message 1: shown ['old'")


def test_a_message_that_comes_after_its_deletion_is_found() -> None:
    """It stays on screen for ever."""
    model = Model()
    model.apply(message("x", "chat_message_update", action="deleted"))
    assert list(model.differences({}, {"permission ada"})) == []
    model.apply(message("x"))
    assert len(list(model.differences({}, {"permission ada"}))) == 1


def test_who_loaded_everything_must_have_everything() -> None:
    """Others are judged by what they were told of; nobody by the owner's own permission."""
    state = {"document 1": "failed", "permission ada": "admin"}
    assert list(Model().differences(state, {"permission ada"})) == []
    assert len(list(Model({}, is_whole=True).differences(state, {"permission ada"}))) == 1
    assert (
        list(Model({"document 1": "failed"}, is_whole=True).differences(state, {"permission ada"}))
        == []
    )


def test_permissions_and_documents_follow_their_events() -> None:
    """Roles and states, and what is gone."""
    model = Model()
    granted = {"target_user_id": "bob", "action": "granted", "details": {"role": "viewer"}}
    model.apply({"type": "permission_change", "data": granted})
    uploaded = {"action": "uploaded", "document": {"id": "1", "status": "uploaded"}}
    model.apply({"type": "document_update", "data": uploaded})
    assert model.things == {"permission bob": "viewer", "document 1": "uploaded"}
    model.apply({"type": "permission_change", "data": granted | {"action": "revoked"}})
    assert model.things["permission bob"] is None
