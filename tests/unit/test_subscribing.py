"""Tests of `realtime.relay.subscribing`: whose subscriptions join, and whose wait."""

from realtime.relay.subscribing import Subscribing


class Subscriptions:
    """Says which subscriptions have begun to join."""

    def __init__(self, at_once: int) -> None:
        self.turns = Subscribing(at_once)
        self.begun: list[str] = []

    def add(self, subject: str, *names: str) -> None:
        for name in names:
            self.turns.add(subject, name, lambda name=name: self.begun.append(name))  # type: ignore[misc]


def test_few_subscriptions_of_a_subject_join_at_a_time() -> None:
    """The others wait, in order, until one has joined; each subject has its own."""
    subscriptions = Subscriptions(2)
    subscriptions.add("ada", "a", "b", "c", "d")
    subscriptions.add("grace", "e")
    assert subscriptions.begun == ["a", "b", "e"]
    subscriptions.turns.remove("ada", "b")
    subscriptions.turns.remove("ada", "b")
    assert subscriptions.begun == ["a", "b", "e", "c"]
    for name in "acd":
        subscriptions.turns.remove("ada", name)
    assert subscriptions.begun == ["a", "b", "e", "c", "d"]
    subscriptions.turns.remove("grace", "e")
    subscriptions.turns.remove("grace", "e")
    assert len(subscriptions.turns) == 0


def test_a_subscription_that_ends_while_it_waits_does_not_join() -> None:
    """And takes no place; the one behind it does."""
    subscriptions = Subscriptions(1)
    subscriptions.add("ada", "a", "b", "c")
    subscriptions.turns.remove("ada", "b")
    assert len(subscriptions.turns) == 2
    subscriptions.turns.remove("ada", "a")
    assert subscriptions.begun == ["a", "c"]
