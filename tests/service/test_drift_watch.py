"""The result of drift runs: from PostgreSQL through the shipper to the pod's metrics."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from fraudops.drift.status import read_drift_status
from fraudops.promotion.pod_rules import PodState
from fraudops.state import State
from services.inference.http.metrics_page import PodCollector
from services.inference.pod.state import pod_state_path, write
from services.shipper.watching import watch_drift
from tests.support.waiting import eventually

SERVED, OTHER = "a" * 64, "b" * 64
FIRST_HOUR = datetime(2026, 11, 2, 12, tzinfo=UTC)


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State.at(tmp_path)
    state.run.mkdir()
    serve(state, SERVED)
    return state


def serve(state: State, digest: str) -> None:
    write(pod_state_path(state), PodState(epoch=1, version="1", digest=digest))


def add_run(url: str, hour: int, verdict: str, digest: str = SERVED) -> datetime:
    """Insert a run over one hour, written a minute after that hour; return when it was written."""
    end = FIRST_HOUR + timedelta(hours=hour)
    values = (
        uuid.uuid4(),
        end + timedelta(minutes=1),
        end - timedelta(hours=1),
        end,
        "1",
        digest,
        900,
        verdict,
        "{}",
    )
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO drift_runs (id, at, window_start, window_end, model_version,"
            " model_digest, rows, verdict, report)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            values,
        )
    return values[1]


def metrics(state: State) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in PodCollector(lambda: 1, state.spool).collect()
        for sample in family.samples
        if sample.name.startswith("fraudops_drift")
    }


@contextlib.asynccontextmanager
async def watching(url: str, state: State) -> AsyncIterator[None]:
    task = asyncio.create_task(watch_drift(url, state, pause_seconds=0.05))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def metrics_after(state: State, last_run: datetime) -> dict[str, float]:
    """Return the metrics once the shipper has seen that run."""

    def seen() -> None:
        drift_status = read_drift_status(state)
        assert drift_status is not None
        assert drift_status.last_run == last_run

    await asyncio.to_thread(eventually, seen, 20)
    return metrics(state)


async def test_an_alarm_stays_until_a_window_with_enough_rows_ends_it(
    state: State, database: str
) -> None:
    async with watching(database, state):
        assert metrics(state) == {}
        empty = await metrics_after(state, add_run(database, 1, "not enough rows"))
        assert empty == {
            "fraudops_drift_alarm": 0,
            "fraudops_drift_last_run_timestamp_seconds": (
                FIRST_HOUR + timedelta(hours=1, minutes=1)
            ).timestamp(),
        }
        expected = [("warning", 0), ("alarm", 1), ("not enough rows", 1), ("none", 0)]
        for hour, (verdict, alarm) in enumerate(expected, 2):
            assert (await metrics_after(state, add_run(database, hour, verdict)))[
                "fraudops_drift_alarm"
            ] == alarm, verdict


async def test_an_alarm_about_a_model_that_does_not_serve_is_not_shown(
    state: State, database: str
) -> None:
    async with watching(database, state):
        assert (await metrics_after(state, add_run(database, 1, "alarm", OTHER)))[
            "fraudops_drift_alarm"
        ] == 0
        serve(state, OTHER)
        assert metrics(state)["fraudops_drift_alarm"] == 1


async def test_the_last_drift_status_stays_while_postgresql_is_away(
    state: State, database: str
) -> None:
    async with watching(database, state):
        before = await metrics_after(state, add_run(database, 1, "alarm"))
    attempts, tried_again = itertools.count(1), asyncio.Event()

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        if next(attempts) > 2:
            tried_again.set()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with watching(f"postgresql://u:p@127.0.0.1:{port}/d", state), asyncio.timeout(20):
            await tried_again.wait()
    assert metrics(state) == before
