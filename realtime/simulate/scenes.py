"""What happens on a platform, in scenes: each a generator of statements and of pauses between.

`plan` starts them and lets them take turns. A scene looks at the cast when its turn comes and keeps
it as the rows will be, so that nobody writes where their permission was just taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from realtime.simulate import acts
from realtime.simulate.acts import Act, Place
from realtime.simulate.cast import TRIAL_BOT, Cast, Stage

Steps = Iterator[Act | float]
"""Statements, and seconds to wait before the next one."""

WORDS_PER_SECOND: Final = (20.0, 60.0)
MAX_GROWING: Final = 8
"""Answers beyond that come whole, as those of a model that does not stream."""
MIME: Final = {
    "pdf": "application/pdf",
    "csv": "text/csv",
    "md": "text/markdown",
    "sql": "application/sql",
    "png": "image/png",
}


@dataclass
class Scenes:
    """What the scenes have in common.

    Args:
        pace: how much longer than usual people take.
        new_id: the id of a row.
    """

    random: random.Random
    cast: Cast
    pace: float
    new_id: Callable[[], UUID]
    growing: int = 0
    """Answers that grow at the moment."""
    is_trying: bool = False
    """Whether somebody has a bot on trial."""

    # Conversations.

    def conversation(self) -> Steps:
        """A question, an answer that grows, and sometimes a word of thanks or a correction."""
        stage, session = self._free_session()
        place = Place(stage.bot, session)
        user = self._writer(stage)
        question, answer = self.random.choice(stage.topic.talk)
        message, replied = self.new_id(), self.new_id()
        is_corrected = self.random.random() < 0.15
        stage.busy.add(session)
        yield acts.ask(place, message, user, question.rstrip("?.") if is_corrected else question)
        yield self._between(0.4, 1.2)
        if is_corrected:
            yield acts.edit(message, question)
        yield from self._answer(stage, place, user, replied, answer)
        yield self._between(1.5, 4)  # to read it
        yield from self._aftermath(place, user, replied)
        stage.busy.discard(session)
        if is_corrected and self.random.random() < 0.5:
            yield self._between(2, 6)
            yield acts.unsay(message)

    def _answer(self, stage: Stage, place: Place, user: UUID, message: UUID, text: str) -> Steps:
        done = self._metadata(stage, text)
        words = text.split(" ")
        if self.growing >= MAX_GROWING:
            yield self._between(0.5, 2)
            yield acts.answer(place, message, user, text, done)
            return
        self.growing += 1
        each = 1 / self.random.uniform(*WORDS_PER_SECOND)
        begun = {"model": done["model"], "status": "streaming"}
        yield acts.answer(place, message, user, words[0], begun)
        for end in range(2, len(words) + 1):
            yield each
            yield acts.grow(message, " ".join(words[:end]))
        yield each
        yield acts.finish(message, text, done)
        self.growing -= 1

    def _metadata(self, stage: Stage, text: str) -> dict[str, object]:
        tokens = {"prompt": self.random.randint(200, 3000), "completion": len(text) // 4}
        cited = self.random.sample(stage.topic.documents, self.random.randint(0, 2))
        citations = [{"document": name, "page": self.random.randint(1, 40)} for name in cited]
        model = self.random.choice(self.cast.corpus.models)
        return {"model": model, "status": "done", "tokens": tokens, "citations": citations}

    def _aftermath(self, place: Place, user: UUID, answer: UUID) -> Steps:
        chance = self.random.random()
        if chance < 0.25:
            text = self.random.choice(self.cast.corpus.thanks)
            yield acts.ask(place, self.new_id(), user, text)
        elif chance < 0.5:
            yield acts.rate(answer, self.random.choice(["up", "up", "up", "down"]))

    def _free_session(self) -> tuple[Stage, UUID]:
        """A session that is free, the guest's first; else any."""
        free = [(one, s) for one in self.cast.stages for s in one.sessions if s not in one.busy]
        guest = [one for one in free if one[0].owner is None]
        if guest and self.random.random() < 0.5:
            return guest[0]
        stage = self.random.choice(self.cast.stages)
        return self.random.choice(free or [(stage, self.random.choice(stage.sessions))])

    # Documents.

    def document(self) -> Steps:
        """Uploaded, read or not, and deleted some time later."""
        stage = self.random.choice(self.cast.stages)
        user, document = self._writer(stage), self.new_id()
        name = self.random.choice(stage.topic.documents)
        mime = MIME.get(name.rpartition(".")[2], "application/octet-stream")
        size = self.random.randint(20_000, 4_000_000)
        yield acts.upload(stage.bot, document, user, name, mime, size)
        yield self._between(0.5, 1.5)
        yield acts.process(document, "processing")
        yield self._between(2, 6)
        if self.random.random() < 0.2:
            error = self.random.choice(self.cast.corpus.failures)
            yield acts.process(document, "failed", error)
            yield acts.notify_owner(stage.bot, "document_failed", {"filename": name})
        else:
            yield acts.process(document, "processed")
        yield self._between(20, 60)
        yield acts.discard(document)

    # Who may do what.

    def permission(self) -> Steps:
        """Somebody is let in, may do more, and leaves again."""
        stage = self.random.choice(self.cast.stages)
        outside = [one for one in self.cast.people if one not in {*stage.members, stage.owner}]
        if not outside:
            return
        user = self.random.choice(outside)
        stage.members[user] = "viewer"
        yield acts.grant(stage.bot, user, "viewer", stage.owner)
        yield self._between(3, 8)
        role = self.random.choice(["editor", "admin"])
        stage.members[user] = role
        yield acts.change_role(stage.bot, user, role)
        yield self._between(8, 20)
        while user == stage.owner or not self._can_go(stage, user):
            yield self._between(3, 8)
        del stage.members[user]
        yield acts.revoke(stage.bot, user)

    def absence(self) -> Steps:
        """Somebody's account is switched off for a while."""
        present = [
            one
            for one in self.cast.people
            if one not in self.cast.away and all(self._can_go(s, one) for s in self.cast.stages)
        ]
        if not present:
            return
        user = self.random.choice(present)
        self.cast.away.add(user)
        yield acts.set_active(user, is_active=False)
        yield self._between(5, 15)
        yield acts.set_active(user, is_active=True)
        self.cast.away.discard(user)

    def _can_go(self, stage: Stage, user: UUID) -> bool:
        """Whether somebody can still write there without them."""
        return any(one != user and one not in self.cast.away for one in stage.members)

    def _writer(self, stage: Stage) -> UUID:
        present = [one for one in stage.members if one not in self.cast.away]
        return self.random.choice(present)

    # Bots.

    def configuration(self) -> Steps:
        """A bot is renamed, or set another way."""
        if not (own := self._own_stages()):
            return
        stage, owner = self.random.choice(own)
        if self.random.random() < 0.4:
            yield acts.rename(stage.bot, self.random.choice(stage.topic.names), owner)
        else:
            model = self.random.choice(self.cast.corpus.models)
            config = {"temperature": self.random.randint(0, 10) / 10, "model": model}
            yield acts.configure(stage.bot, config, owner)

    def handover(self) -> Steps:
        """An owner goes on holiday: a member has the bot until they are back."""
        kept = [(s, owner) for s, owner in self._own_stages() if owner not in s.members]
        if not kept:
            return
        stage, old = self.random.choice(kept)
        new = self._writer(stage)
        stage.members[old] = "admin"
        yield acts.grant(stage.bot, old, "admin", old)
        yield self._between(1, 3)
        stage.owner = new
        yield acts.hand_over(stage.bot, new, old)
        yield self._between(10, 30)
        stage.owner = old
        yield acts.hand_over(stage.bot, old, new)
        while not self._can_go(stage, old):
            yield self._between(3, 8)
        del stage.members[old]
        yield acts.revoke(stage.bot, old)

    def trial(self) -> Steps:
        """Somebody makes a bot, tries it and deletes it."""
        if self.is_trying:
            return
        self.is_trying = True
        users = list(self.cast.people)
        owner, guest = self.random.sample(users, 2)
        yield acts.make_bot(TRIAL_BOT, owner, "Trial", "Made to be deleted.")
        yield acts.grant(TRIAL_BOT, guest, "viewer", owner)
        yield self._between(5, 10)
        yield acts.configure(TRIAL_BOT, {"temperature": 1}, owner)
        yield self._between(5, 10)
        yield acts.delete_bot(TRIAL_BOT)
        self.is_trying = False

    def _own_stages(self) -> list[tuple[Stage, UUID]]:
        return [(stage, stage.owner) for stage in self.cast.stages if stage.owner is not None]

    # Events of the platform's own.

    def poll(self) -> Steps:
        """Open a poll and close it, with `relay.emit`."""
        stage = self.random.choice(self.cast.stages)
        user, poll = self._writer(stage), str(self.new_id())
        question = self.random.choice(self.cast.corpus.polls)
        yield acts.emit(stage.bot, "poll_opened", {"poll": poll, "question": question}, user)
        yield self._between(4, 10)
        result = {"yes": self.random.randint(0, 9), "no": self.random.randint(0, 9)}
        yield acts.emit(stage.bot, "poll_closed", {"poll": poll, "result": result}, user)

    def quota(self) -> Steps:
        """A notification for a bot's owner."""
        stage = self.random.choice(self.cast.stages)
        left = self.random.randint(0, 20)
        yield acts.notify_owner(stage.bot, "quota", {"percent_left": left})

    def _between(self, least: float, most: float) -> float:
        return self.random.uniform(least, most) * self.pace
