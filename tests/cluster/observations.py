"""The answers that clients of a release received, and the logs of its promotion Jobs."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """Consecutive requests that one version answered, as tests/cluster/clients.py prints them.

    `first` and `last` are the times of sending, and `answered` is that of the first answer, all in
    seconds of the wall clock.
    """

    first: float
    last: float
    version: str
    count: int
    answered: float


@dataclass
class Seen:
    """The answers and failures of the clients, filled in when their block has ended."""

    runs: list[Run] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return sum(run.count for run in self.runs)

    def versions_after(self, moment: float, until: float = float("inf")) -> set[str]:
        """Return the versions that answered before `until` requests sent after the moment.

        On a busy machine a request may wait for its answer until the next act has committed.
        """
        return {run.version for run in self.runs if run.last > moment and run.answered < until}


@dataclass(frozen=True)
class Promoted:
    """A promotion's Job that has ended.

    `output` is what the command printed. `lines` are the Job's log lines with their times in
    seconds of the wall clock.
    """

    exit_code: int
    job: str
    output: str
    lines: list[tuple[float, str]]

    def moment(self, text: str) -> float:
        return next(moment for moment, line in self.lines if text in line)

    @property
    def returned(self) -> float:
        """Return when the Job logged that every worker serves the version."""
        return self.moment(" on every worker")

    @property
    def seconds(self) -> float:
        """Return the seconds from the lock to convergence."""
        return self.returned - self.moment("lock acquired")


def stamped(line: str) -> tuple[float, str]:
    """Split a line of `kubectl logs --timestamps` into its time and its text."""
    stamp, _, text = line.partition(" ")
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    seconds = time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) - time.timezone
    return seconds + float(f"0.{fraction or 0}"), text
