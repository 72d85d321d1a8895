"""Sends transactions over kept-alive connections from several threads, in order, at a rate if
asked, and remembers what became of each.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fraudops.client import InferenceClient, PredictResponse
from fraudops.errors import SettingsError, StoreDownError

# So many failures on end, and the service is away rather than stumbling.
FAILURES_ON_END = 20


@dataclass
class Replay:
    """What became of the rows: `answers` by row, None where there was none.

    `reason` is the last failure's, `refusal` the first refusal's.
    """

    answers: list[PredictResponse | None]
    sent: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    away: bool = False
    reason: str = ""
    refusal: str = ""
    _on_end: int = field(default=0, repr=False)

    @property
    def answered(self) -> int:
        return sum(answer is not None for answer in self.answers)


def replay(
    client: InferenceClient,
    rows: Sequence[dict[str, float]],
    name: str,
    concurrency: int = 8,
    rate: float | None = None,
    sent: Callable[[int], object] = lambda _rows: None,
) -> Replay:
    """Posts row i as transaction `name-i`; row i is due i / `rate` seconds after the start.

    Calls `sent` with the rows that have an outcome.

    Gives up after FAILURES_ON_END failures on end; then `away` is True. Raises nothing for what
    the service does.
    """
    state, lock, stop = Replay([None] * len(rows)), threading.Lock(), threading.Event()
    queue = iter(range(len(rows)))
    start = time.monotonic()

    def work() -> None:
        while not stop.is_set():
            with lock:
                index = next(queue, None)
            if index is None:
                return
            if rate is not None and stop.wait(max(0.0, start + index / rate - time.monotonic())):
                return
            outcome = _post(client, rows[index], f"{name}-{index:06d}")
            with lock:
                _note(state, index, outcome)
                sent(state.sent)
            if state.away:
                stop.set()

    threads = [
        threading.Thread(target=work, name=f"replay-{number}")
        for number in range(min(concurrency, len(rows)))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        stop.set()  # Ctrl-C: the other threads end with the row they are at
    state.seconds = time.monotonic() - start
    return state


def _post(
    client: InferenceClient, row: dict[str, float], transaction_id: str
) -> PredictResponse | StoreDownError | SettingsError:
    try:
        return client.predict(row, transaction_id=transaction_id)
    except (StoreDownError, SettingsError) as error:
        return error


def _note(
    state: Replay, index: int, outcome: PredictResponse | StoreDownError | SettingsError
) -> None:
    state.sent += 1
    if isinstance(outcome, StoreDownError):
        state.failed += 1
        state._on_end += 1
        state.reason = str(outcome)
        state.away = state._on_end >= FAILURES_ON_END
        return
    state._on_end = 0
    if isinstance(outcome, SettingsError):
        state.refused += 1
        state.refusal = state.refusal or str(outcome)
    else:
        state.answers[index] = outcome
