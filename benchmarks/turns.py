"""One subject's turn under load, and the rounds in which all subjects take turns.

Answers are checked during the load.
"""

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.generators import Generator, GeneratorError, Load
from benchmarks.peers import PeerError
from benchmarks.processes import SubjectError, post, processor_seconds
from benchmarks.protocols import Protocol, WrongAnswerError
from benchmarks.subjects import TOLERANCE, BenchmarkSite, Running, Subject

SAMPLE_SECONDS = 0.1
FIRST_CHECKS = 20
WARM_UP_SECONDS = 1.0
Item = TypeVar("Item")
LOST = (SubjectError, PeerError, GeneratorError, OSError, subprocess.SubprocessError)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one turn; `processor_us` is the CPU time of all processes per answer.

    `difference` is the largest of the `checked` answers. `audited` counts the rows in PostgreSQL
    after everything was shipped, of `answered` answers. `shipping_seconds` is the time from the end
    of the load until then.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    processor_us: float
    checked: int
    difference: float
    answered: int
    audited: int | None = None
    shipping_seconds: float | None = None


class Checker:
    """Requests one row after another and compares each answer with its pipeline's probability.

    The two may differ by TOLERANCE.
    """

    def __init__(
        self,
        url: str,
        protocol: Protocol,
        names: Sequence[str],
        x: NDArray[np.float64],
        expected: NDArray[np.float64],
        headers: Mapping[str, str],
    ) -> None:
        self._url, self._protocol, self._names, self._x, self._expected = (
            url,
            protocol,
            names,
            x,
            expected,
        )
        self._headers, self._stop = headers, threading.Event()
        self.checked, self.difference = 0, 0.0
        self.fault: str | None = None

    def check(self, index: int) -> None:
        """Check the answer for one row. Raises SubjectError."""
        index %= len(self._x)
        status, answer = post(
            self._url,
            self._protocol.body(self._names, self._x[index : index + 1].tolist()),
            headers=self._headers,
        )
        if status != 200:
            raise SubjectError(f"{status} {answer[:300]!r}")
        try:
            difference = self._protocol.difference(answer, self._expected[index : index + 1])
        except WrongAnswerError as error:
            raise SubjectError(f"row {index}: {error}") from error
        if difference > TOLERANCE:
            raise SubjectError(
                f"the answer for row {index} differs by {difference:.2g} from its pipeline"
            )
        self.checked, self.difference = self.checked + 1, max(self.difference, difference)

    def during(self, load: Callable[[], Load]) -> Load:
        """Check ten answers per second during the load.

        Raises SubjectError after the load if an answer was wrong; checks end at the first one.
        """
        self._stop.clear()
        thread = threading.Thread(target=self._keep_checking)
        thread.start()
        try:
            return load()
        finally:
            self._stop.set()
            thread.join()
            if self.fault:
                raise SubjectError(self.fault)

    def _keep_checking(self) -> None:
        index = FIRST_CHECKS
        while not self._stop.wait(SAMPLE_SECONDS):
            try:
                self.check(index)
            except (OSError, SubjectError) as error:
                self.fault = f"under load: {error}"
                return
            index += 1


class Driven:
    """A running subject that is checked and warm, and can be loaded several times.

    The constructor and `load` raise SubjectError for an answer that is missing, refused or wrong.
    """

    def __init__(
        self,
        subject: Subject,
        running: Running,
        site: BenchmarkSite,
        generator: Generator,
        connections: int,
    ) -> None:
        self._pid = running.pid
        self._drive = partial(
            generator.drive,
            running.url,
            site.bodies(subject.protocol),
            connections,
            headers=subject.headers,
        )
        self._checker = Checker(
            running.url,
            subject.protocol,
            site.models.names,
            site.models.x,
            site.models.expected[subject.kind],
            subject.headers,
        )
        for index in range(FIRST_CHECKS):
            self._checker.check(index)
        self._answered = self._drive(WARM_UP_SECONDS).answered

    def load(self, seconds: float) -> Turn:
        """Load the subject. `answered` in the result counts all its answers until now."""
        before, checks_before = processor_seconds(self._pid), self._checker.checked
        load = self._checker.during(lambda: _check_complete(self._drive(seconds)))
        used = processor_seconds(self._pid) - before
        self._answered += load.answered
        return Turn(
            rate=load.rate,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            processor_us=used / (load.answered + self._checker.checked - checks_before) * 1e6,
            checked=self._checker.checked,
            difference=self._checker.difference,
            answered=self._answered + self._checker.checked,
        )


def turn(
    subject: Subject, site: BenchmarkSite, generator: Generator, connections: int, seconds: float
) -> Turn:
    """Start the subject, check it, warm it up, and load it.

    Raises SubjectError for any answer that is missing, refused or wrong.
    """
    with subject.start(site) as running:
        driven = Driven(subject, running, site, generator, connections)
        return _shipped(running, driven.load(seconds), connections)


def _check_complete(load: Load) -> Load:
    if load.refused or load.broken or not load.answered:
        raise SubjectError(f"{load.answered} answers, {load.refused} refused, {load.broken} broken")
    return load


def _shipped(running: Running, measured: Turn, connections: int) -> Turn:
    """Add the figures of shipping.

    Raises SubjectError if PostgreSQL has fewer rows than answers, or more than requests.
    """
    if running.product is None or running.product.database is None:
        return measured
    seconds = running.product.drain()
    audited = running.product.audited()
    # One more row is of the readiness check. At the ends of warm-up and load the generator hangs up
    # on requests in flight; their rows may be there too.
    if not measured.answered + 1 <= audited <= measured.answered + 1 + 2 * connections:
        raise SubjectError(f"PostgreSQL has {audited} rows of {measured.answered + 1} answers")
    return msgspec.structs.replace(measured, audited=audited, shipping_seconds=seconds)


class Missing(msgspec.Struct, frozen=True):
    """A subject without figures, and the reason."""

    key: str
    reason: str


def rounds(
    subjects: Sequence[Subject],
    number: int,
    measure: Callable[[Subject], Turn],
    say: Callable[[str], None],
    between: Callable[[], None] = lambda: None,
) -> tuple[dict[str, list[Turn]], list[Missing]]:
    """Measure every subject once per round; each round starts with another subject.

    A peer that fails is left out with its reason. Any other failure ends the run.
    """
    turns: dict[str, list[Turn]] = {subject.key: [] for subject in subjects}
    missing: list[Missing] = []
    for number_of_round in range(number):
        for subject in order(subjects, number_of_round):
            if any(lost.key == subject.key for lost in missing):
                continue
            try:
                measured = measure(subject)
            except LOST as error:
                if subject.group != "peers":
                    raise
                missing.append(Missing(subject.key, str(error)[-600:]))
                turns.pop(subject.key)
                say(f"{subject.title}: left out: {error}")
                continue
            turns[subject.key].append(measured)
            say(
                f"round {number_of_round + 1}: {subject.title}: {measured.rate:,.0f} per second,"
                f" {measured.processor_us:.1f} µs of CPU per answer"
            )
            between()
    return turns, missing


def order(items: Sequence[Item], number_of_round: int) -> list[Item]:
    """Rotate the items by one each round, so that a subject does not always follow the same one."""
    first = number_of_round % len(items)
    return [*items[first:], *items[:first]]
