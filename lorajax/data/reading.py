"""What happens while rows are read: which are bad, which are left out and why, and how far a long file is."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

from lorajax.errors import LorajaxError

#: Rows between two lines about a long task.
TOLD_EVERY = 20_000


@dataclasses.dataclass
class Reading:
    """One reading of a source: how lenient it is, and the counts of what came of it.

    `skip_bad_rows` bad rows are passed over and counted; the next one is an error, as the first one is when it is 0.
    """

    skip_bad_rows: int = 0
    say: Callable[[str], None] = lambda line: None
    read: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)
    bad_rows: list[str] = dataclasses.field(default_factory=list)

    def row(self, task: str) -> None:
        """Counts a row of `task`, whatever becomes of it."""
        self.read[task] += 1
        if self.read[task] % TOLD_EVERY == 0:
            self.say(f"task {task}: {self.read[task]:,} rows read")

    def drop(self, task: str, reason: str, rows: int = 1) -> None:
        """Counts rows that are left out on purpose. `reason` completes "N rows ...", as in "repeat a prompt"."""
        if rows:
            self.dropped.setdefault(task, collections.Counter())[reason] += rows

    def bad(self, error: LorajaxError) -> None:
        """Passes over a bad row, which `error` names.

        Raises:
          LorajaxError: `error` itself, once more rows are bad than `skip_bad_rows` allows.
        """
        if len(self.bad_rows) >= self.skip_bad_rows:
            if not self.skip_bad_rows:
                raise error
            raise LorajaxError(f"{error} (after {len(self.bad_rows)} bad rows that --skip-bad-rows allowed)") from error
        self.bad_rows.append(str(error))

    def report(self) -> list[str]:
        """What was left out, a line each: bad rows first, then per task and reason."""
        lines = [f"bad row passed over: {bad}" for bad in self.bad_rows]
        for task, reasons in self.dropped.items():
            told = ", ".join(f"{rows} {reason}" for reason, rows in reasons.items())
            lines.append(f"task {task}: of {self.read[task]} rows read, {told}: left out")
        return lines
