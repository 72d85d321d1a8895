"""Requests of one turn of the event loop are answered together, but fail separately."""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import msgspec

from services.inference.failures import FailureLog
from services.inference.http.fast_path import FastPath
from services.inference.http.problems import Headers
from services.inference.scoring import PendingRequest, Scored


class RecordingResponder:
    status = 0

    def reply(self, status: int, headers: Headers, body: bytes, request_id: str) -> None:
        self.status = status


class Defective:
    """A scoring that fails for a batch with a "bad" transaction."""

    def at_once(self, requests: Sequence[PendingRequest]) -> list[Scored]:
        if any(request.transaction == "bad" for request in requests):
            raise ZeroDivisionError
        return [Scored("id", 0.5, 1, "1", 0.5) for _ in requests]


class CountedAnswers:
    def __init__(self) -> None:
        self.answered: dict[int, int] = {}
        self.shed_calls = 0

    def shed(self, endpoint: str) -> None:
        self.shed_calls += 1

    def answered_together(
        self, method: str, route: str, status: int, seconds: Sequence[float]
    ) -> None:
        self.answered[status] = self.answered.get(status, 0) + len(seconds)


def fast_path_with(counts: CountedAnswers) -> FastPath:
    model = SimpleNamespace(reader=msgspec.json.Decoder(str))
    parts: tuple[Any, ...] = (
        SimpleNamespace(serving=SimpleNamespace(model=model)),
        Defective(),
        SimpleNamespace(waits=False),
        counts,
        SimpleNamespace(active=False),
        FailureLog(),
    )
    return FastPath(*parts)


async def test_a_request_whose_deadline_has_passed_is_shed_alone() -> None:
    counts = CountedAnswers()
    fast_path, now = fast_path_with(counts), perf_counter()
    callers = [RecordingResponder() for _ in range(4)]
    for caller, deadline in zip(callers, (None, now - 0.1, now + 60, now - 1), strict=True):
        assert fast_path.submit(caller, b'"good"', None, 0.0, None, deadline)
    await asyncio.sleep(0)
    assert [caller.status for caller in callers] == [200, 503, 200, 503]
    assert (counts.answered, counts.shed_calls) == ({503: 2, 200: 2}, 2)


async def test_a_request_that_cannot_be_scored_does_not_fail_its_neighbours() -> None:
    counts = CountedAnswers()
    fast_path = fast_path_with(counts)
    callers = [RecordingResponder() for _ in range(4)]
    for caller, body in zip(callers, (b'"good"', b'"bad"', b'"good"', b'"good"'), strict=True):
        assert fast_path.submit(caller, body, None, 0.0)
    await asyncio.sleep(0)
    assert [caller.status for caller in callers] == [200, 500, 200, 200]
    assert counts.answered == {200: 3, 500: 1}
