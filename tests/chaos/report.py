"""What a run prints at its end: the seed, the faults and their recoveries, counts, violations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.chaos.record import Record
from tests.chaos.verdict import Violation

EVIDENCE_OF_EACH_RULE = 3


@dataclass
class Report:
    """One run."""

    seed: int
    seconds: float
    recoveries: Mapping[str, Sequence[float | None]]
    records: Sequence[Record]
    transactions: Counter[str]
    events: int
    log_rows_left: int
    figures: Sequence[str]
    violations: list[Violation] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.violations

    def lines(self) -> Iterator[str]:
        """The report, for a terminal and (its table) for a Markdown page."""
        yield from ("", f"seed {self.seed}, {self.seconds:.0f} s of faults", "")
        yield from self._table()
        yield from ("", *self._counts(), *self.figures, "")
        yield from self._violations()
        words = "PASSED" if self.is_good else f"FAILED: {len(self.violations)} violations"
        yield f"{words} (bin/chaos --seconds {self.seconds:.0f} --seed {self.seed})"

    def _table(self) -> Iterator[str]:
        yield "| fault | times | survived | median recovery | worst |"
        yield "| --- | ---: | ---: | ---: | ---: |"
        for kind, times in sorted(self.recoveries.items()):
            good = [time for time in times if time is not None]
            figures = f"{median(good):.2f} s | {max(good):.2f} s" if good else "– | –"
            yield f"| {kind} | {len(times)} | {len(good)} | {figures} |"

    def _counts(self) -> Iterator[str]:
        records = self.records
        deliveries = sum(len(record.seen) for record in records)
        repeats = sum(record.repeats for record in records)
        greetings = [greeting for record in records for greeting in record.greetings]
        answers = Counter(_answer(one.recovered, one.reason) for one in greetings)
        codes = Counter(ending.code for record in records for ending in record.endings)
        drops = sum((record.dropped for record in records), Counter[str]())
        yield f"{sum(self.transactions.values())} transactions: {_listed(self.transactions)}"
        yield (
            f"{self.events} events committed ({self.log_rows_left} still in the log); {deliveries}"
            f" deliveries to {len(records)} clients; {repeats} repeats dropped by their ids"
        )
        yield f"{len(greetings)} times let in: {_listed(answers)}"
        yield f"left by themselves: {_listed(drops)}; closed: {_listed(codes)}"

    def _violations(self) -> Iterator[str]:
        shown: Counter[str] = Counter()
        for violation in self.violations:
            shown[violation.rule] += 1
            if shown[violation.rule] <= EVIDENCE_OF_EACH_RULE:
                yield f"VIOLATION {violation.rule}: {violation.who}: {violation.what}"
                yield from (f"    {line}" for line in violation.evidence)
        if shown:
            yield f"violations: {_listed(shown)}"


def _answer(recovered: bool | None, reason: str | None) -> str:
    if recovered is None:
        return "without a cursor"
    return "recovered" if recovered else f"not recovered ({reason})"


def _listed(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    listed = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{number} {name}" for name, number in listed) or "none"
