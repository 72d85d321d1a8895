"""Load generator: sends transactions from several threads and records each outcome.

Connections are kept alive, rows are sent in order, and the rate can be limited.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fraudops.client import InferenceClient, PredictResponse
from fraudops.errors import SettingsError, StoreDownError

# After this many failures in a row the service counts as down, and the rest is not sent.
MAX_FAILURES_IN_A_ROW = 20
Outcome = PredictResponse | StoreDownError | SettingsError


@dataclass
class Replay:
    """The outcome of all rows.

    `answers` has one entry per row, None where no answer arrived. `away` is True if the load was
    stopped because the service is down. `reason` is the message of the last failure, `refusal`
    that of the first refusal. `seconds` is the duration of the load.
    """

    answers: list[PredictResponse | None]
    sent: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    away: bool = False
    reason: str = ""
    refusal: str = ""
    _failures_in_a_row: int = field(default=0, repr=False)

    @property
    def answered(self) -> int:
        return sum(answer is not None for answer in self.answers)

    def add(self, index: int, outcome: Outcome) -> None:
        """Count the outcome of one row."""
        self.sent += 1
        if isinstance(outcome, StoreDownError):
            self.failed += 1
            self._failures_in_a_row += 1
            self.reason = str(outcome)
            self.away = self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW
            return
        self._failures_in_a_row = 0
        if isinstance(outcome, SettingsError):
            self.refused += 1
            self.refusal = self.refusal or str(outcome)
        else:
            self.answers[index] = outcome


def _ignore(_rows: int) -> None:
    pass


def replay(
    client: InferenceClient,
    rows: Sequence[dict[str, float]],
    name: str,
    concurrency: int = 8,
    rate: float | None = None,
    on_progress: Callable[[int], object] = _ignore,
) -> Replay:
    """Send all rows and return their outcomes.

    Row i is sent as transaction `name-i`, not earlier than i / `rate` seconds after the start.
    `on_progress` gets the number of rows that have an outcome. Errors of the service are counted
    and not raised.
    """
    return _Load(client, rows, name, rate, on_progress).run(concurrency)


class _Load:
    """One load: threads that take rows from a shared iterator."""

    def __init__(
        self,
        client: InferenceClient,
        rows: Sequence[dict[str, float]],
        name: str,
        rate: float | None,
        on_progress: Callable[[int], object],
    ) -> None:
        self._client, self._rows, self._name, self._rate = client, rows, name, rate
        self._on_progress = on_progress
        self._replay = Replay([None] * len(rows))
        # Guards the iterator and the counts, which all threads share.
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._indices = iter(range(len(rows)))
        self._start = time.monotonic()

    def run(self, concurrency: int) -> Replay:
        threads = [
            threading.Thread(target=self._work, name=f"replay-{number}")
            for number in range(min(concurrency, len(self._rows)))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            # After Ctrl-C every thread finishes its current row and ends.
            self._stop.set()
        self._replay.seconds = time.monotonic() - self._start
        return self._replay

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                index = next(self._indices, None)
            if index is None or self._stop.wait(self._seconds_until_due(index)):
                return
            outcome = self._post(index)
            with self._lock:
                self._replay.add(index, outcome)
                self._on_progress(self._replay.sent)
            if self._replay.away:
                self._stop.set()

    def _seconds_until_due(self, index: int) -> float:
        # Due times are counted from the start, so a slow answer does not lower the rate.
        if self._rate is None:
            return 0.0
        return max(0.0, self._start + index / self._rate - time.monotonic())

    def _post(self, index: int) -> Outcome:
        try:
            return self._client.predict(
                self._rows[index], transaction_id=f"{self._name}-{index:06d}"
            )
        except (StoreDownError, SettingsError) as error:
            return error
