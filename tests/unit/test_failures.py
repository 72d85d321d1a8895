"""A scorer that fails: every client gets a problem, and the log gets one stack trace."""

import asyncio
import json
import logging
from collections.abc import Iterator
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from fraudops.settings import HttpSettings
from services.inference.failures import FailureLog
from services.inference.http.access_log import AccessLog
from services.inference.http.admin_auth import Admin
from services.inference.http.bodies import Arrival, BodyBudget, Permits
from services.inference.http.cors import Cors
from services.inference.http.dispatch import Dispatcher
from services.inference.http.fast_path import FastPath
from tests.support.waiting import eventually

SECRET = "4111111111111111"


def fail(*_: object) -> Any:
    raise ZeroDivisionError(SECRET)


def fail_elsewhere(*_: object) -> Any:
    raise KeyError(SECRET)


def note(failures: FailureLog, times: int, call: Any = fail) -> None:
    for _ in range(times):
        try:
            call()
        except (ZeroDivisionError, KeyError) as error:
            failures.note(error)


def traces(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the error type of each log line that has a stack trace."""
    records = [record for record in caplog.records if record.exc_info]
    return [record.exc_info[0].__name__ for record in records]  # type: ignore[index, union-attr]


def counts(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.__dict__["count"] for record in caplog.records if not record.exc_info]


@pytest.fixture(autouse=True)
def errors_alone(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.ERROR):
        yield


def ids(caplog: pytest.LogCaptureFixture) -> list[str | None]:
    """Return the request ids of the lines with a stack trace."""
    return [vars(record).get("request_id") for record in caplog.records if record.exc_info]


async def test_each_kind_of_failure_has_one_stack_trace(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog()
    note(failures, 500)
    note(failures, 3, fail_elsewhere)
    assert traces(caplog) == ["ZeroDivisionError", "KeyError"]
    assert "test_failures.py" in caplog.records[0].__dict__["trace"][-1]
    failures.close()
    assert counts(caplog) == [499, 2]


async def test_the_log_line_has_the_id_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog()
    failures.note(ZeroDivisionError(), "r-1")
    failures.note(KeyError())
    assert [vars(record).get("request_id") for record in caplog.records] == ["r-1", None]
    failures.close()


async def test_a_period_ends_with_a_count_and_a_quiet_one_with_a_new_beginning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = FailureLog(period_seconds=0.05)
    note(failures, 5)
    assert await asyncio.to_thread(eventually, lambda: counts(caplog)[0]) == 4

    def check_quiet() -> None:
        assert not failures._kinds

    await asyncio.to_thread(eventually, check_quiet)
    note(failures, 1)
    assert traces(caplog) == ["ZeroDivisionError"] * 2
    failures.close()


class Uncounted:
    """Metrics that count nothing."""

    def answered(self, *_: object) -> None: ...

    def answered_together(self, *_: object) -> None: ...

    def waited(self, *_: object) -> None: ...


async def no_client(*_: object) -> None: ...


def client_of(failures: FailureLog) -> httpx.AsyncClient:
    """Return a client of a dispatcher whose handlers always fail."""
    context: Any = SimpleNamespace(
        worker=SimpleNamespace(serving=SimpleNamespace(model=SimpleNamespace(reader=None))),
        status=SimpleNamespace(ready=fail_elsewhere),
        limits=HttpSettings(),
        clients=SimpleNamespace(verify=no_client),
        budget=BodyBudget(64 << 20),
        permits={"batches": Permits("batches", 1, Uncounted())},  # type: ignore[arg-type]
        metrics=Uncounted(),
        failures=failures,
        drain=SimpleNamespace(active=False),
        refusals=None,
        scoring=SimpleNamespace(many=fail),
    )
    life: Any = None
    dispatcher = Dispatcher(context, Admin(None, None), Cors(()), AccessLog(False), life)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        # What the HTTP protocol of the service adds.
        scope["state"] = {"arrival": Arrival(0.0, 0.0)}
        await dispatcher(scope, receive, send)

    transport = httpx.ASGITransport(application)
    return httpx.AsyncClient(transport=transport, base_url="http://pod")


@pytest.mark.parametrize("path", ["/predict/batch", "/ready"])
async def test_every_client_of_a_failing_path_gets_a_problem(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    failures = FailureLog()
    async with client_of(failures) as client:
        for number in range(20):
            headers = {"x-request-id": f"r-{number}"}
            answer = await client.request(
                "GET" if path == "/ready" else "POST",
                path,
                json={} if path != "/ready" else None,
                headers=headers,
            )
            assert answer.status_code == 500
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["x-request-id"] == f"r-{number}"
            assert json.loads(answer.content)["title"] == "A defect of the service"
            assert SECRET not in answer.text
    assert len(traces(caplog)) == 1
    assert ids(caplog) == ["r-0"]
    failures.close()
    assert counts(caplog) == [19]


async def test_an_id_of_a_request_that_may_hold_a_card_number_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = FailureLog()
    failures.note(RuntimeError("x"), "order-4111111111111111")
    (logged,) = ids(caplog)
    assert logged == "id:" + sha256(b"order-4111111111111111").hexdigest()[:16]
    assert "4111111111111111" not in caplog.text
    failures.close()


class WaitingCaller:
    status, request_id = 0, ""

    def reply(self, status: int, headers: Any, body: bytes, request_id: str) -> None:
        self.status, self.request_id = status, request_id


async def test_every_caller_of_the_fast_path_gets_a_problem(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = SimpleNamespace(reader=msgspec.json.Decoder(str))
    parts: tuple[Any, ...] = (
        SimpleNamespace(serving=SimpleNamespace(model=model)),
        SimpleNamespace(at_once=fail),
        SimpleNamespace(waits=False),
        Uncounted(),
        SimpleNamespace(active=False),
    )
    failures = FailureLog()
    fast_path = FastPath(*parts, failures)
    callers = [WaitingCaller() for _ in range(20)]
    for caller in callers:
        assert fast_path.submit(caller, b'"row"', None, 0.0)
    await asyncio.sleep(0)
    assert {caller.status for caller in callers} == {500}
    assert len(traces(caplog)) == 1
    assert ids(caplog) == [callers[0].request_id]
    failures.close()
