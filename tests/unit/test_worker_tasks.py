"""The background tasks of a worker."""

import asyncio
import os
import signal

import pytest

from services.inference import application


async def test_a_worker_whose_task_fails_is_stopped_and_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(application.os, "kill", lambda *call: sent.append(call))

    async def fail() -> None:
        raise ValueError

    failing = asyncio.create_task(fail(), name="Poller.run")
    cancelled = asyncio.create_task(asyncio.sleep(60))
    for task in (failing, cancelled):
        task.add_done_callback(application.end_with)
    cancelled.cancel()
    await asyncio.gather(failing, cancelled, return_exceptions=True)
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert [vars(record)["task"] for record in caplog.records] == ["Poller.run"]
