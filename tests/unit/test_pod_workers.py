"""The calls to all workers of a pod, over the real sockets of workers that answer as told."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import ServingTarget
from services.inference.pod import workers as workers_module
from services.inference.pod.worker_channel import Ask, Reply, RunFolder
from services.inference.pod.workers import Workers, prepare_failure, seconds_until

AT_4, AT_5 = ServingTarget(4, "1", "1" * 64), ServingTarget(5, "2", "2" * 64)
SERVING_4 = PodState().serving(AT_4, "peer")
HANGS = None


@dataclass
class Pod:
    """A pod whose workers are sockets of this process."""

    run: RunFolder
    asked: list[tuple[int, Ask]] = field(default_factory=list)
    listeners: list[asyncio.Server] = field(default_factory=list)

    async def starts(self, *replies: Reply | None) -> Workers:
        """Start a worker for each reply; there should be two."""
        for pid, reply in enumerate(replies, 1):
            self.listeners.append(await self._worker(pid, reply))
        return Workers(self.run, 2)

    async def _worker(self, pid: int, reply: Reply | None) -> asyncio.Server:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked.append((pid, msgspec.json.decode(await reader.readline(), type=Ask)))
            if reply is HANGS:
                await reader.read()
            else:
                writer.write(msgspec.json.encode(reply) + b"\n")
            writer.close()

        return await asyncio.start_unix_server(converse, self.run.address(pid))


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(RunFolder(tmp_path))
    yield made
    for listener in made.listeners:
        listener.close()


def serves(target: ServingTarget | None) -> Reply:
    return Reply(pid=1, target=target)


async def test_the_prepared_models_of_all_workers_count(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "STATE_SECONDS", 0.2)
    workers = await pod.starts(
        Reply(pid=1, prepared={"a": "peer"}), HANGS, Reply(pid=3, prepared={"b": "cache"})
    )
    assert await workers.prepared() == {"a": "peer", "b": "cache"}


@pytest.mark.parametrize(
    ("replies", "now", "all_serve", "complete"),
    [
        ([serves(AT_4), serves(AT_4)], SERVING_4, True, True),
        ([serves(AT_4), serves(AT_4), serves(AT_4)], SERVING_4, True, True),
        ([serves(AT_4)], SERVING_4, True, False),
        ([], SERVING_4, False, False),
        ([serves(AT_4), serves(AT_5)], SERVING_4, False, False),
        ([serves(AT_4), serves(None)], SERVING_4, False, False),
        # A pod without a model is never complete, although its workers agree with it.
        ([serves(None), serves(None)], PodState(epoch=4), True, False),
    ],
)
async def test_a_pod_is_complete_when_as_many_workers_as_wanted_serve_its_model(
    pod: Pod, replies: list[Reply | None], now: PodState, all_serve: bool, complete: bool
) -> None:
    workers = await pod.starts(*replies)
    assert await workers.all_serve(now) is all_serve
    assert await workers.is_complete(now) is complete
    assert all(ask == Ask(op="state") for _, ask in pod.asked)


async def test_a_preparation_reaches_every_worker(pod: Pod) -> None:
    workers = await pod.starts(Reply(pid=1), Reply(pid=2))
    answers = await workers.prepare(AT_5, "peer", 90.0, time.monotonic() + 10)
    assert prepare_failure("2", answers) is None
    ask = Ask(op="prepare", target=AT_5, source="peer", seconds=90.0)
    assert sorted(pod.asked, key=lambda asked: asked[0]) == [(1, ask), (2, ask)]


async def test_a_preparation_that_one_worker_refuses_is_dropped_in_all(pod: Pod) -> None:
    workers = await pod.starts(Reply(pid=1), Reply(pid=2, error="altered"))
    answers = await workers.prepare(AT_5, "peer", 90.0, time.monotonic() + 10)
    assert isinstance(prepare_failure("2", answers), RefusedError)
    drop = Ask(op="drop", target=AT_5)
    assert sorted(pid for pid, ask in pod.asked if ask == drop) == [1, 2]


async def test_an_activation_names_the_pods_target_and_where_its_bundle_came_from(
    pod: Pod,
) -> None:
    workers = await pod.starts(Reply(pid=1))
    await workers.activate(PodState(epoch=4))
    assert pod.asked == []
    await workers.activate(SERVING_4)
    # The state of a pod that release 0.2.0 wrote may have no source.
    await workers.activate(msgspec.structs.replace(SERVING_4, source=None))
    assert [ask for _, ask in pod.asked] == [
        Ask(op="activate", target=AT_4, source=source) for source in ("peer", "cache")
    ]


async def test_a_worker_that_refuses_or_hangs_can_follow_later(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "ACTIVATE_SECONDS", 1.0)
    monkeypatch.setattr(workers_module, "STATE_SECONDS", 1.0)
    workers = await pod.starts(Reply(pid=1), Reply(pid=2, error="no memory"), HANGS)
    faults = "worker 2: no memory; worker 3 does not answer"
    with pytest.raises(StoreDownError, match=f"epoch 4.* {faults}"):
        await workers.activate(SERVING_4)
    with pytest.raises(StoreDownError, match=faults):
        await workers.drain()


async def test_a_drain_reaches_every_worker(pod: Pod) -> None:
    workers = await pod.starts(Reply(pid=1), Reply(pid=2))
    await workers.drain()
    assert sorted(pid for pid, ask in pod.asked if ask == Ask(op="drain")) == [1, 2]


CALLS: dict[str, Callable[[Workers], Awaitable[object]]] = {
    "states": lambda workers: workers.states(),
    "prepare": lambda workers: workers.prepare(AT_5, "peer", 90.0, time.monotonic() - 60),
    "drop": lambda workers: workers.drop(AT_5),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_worker_that_hangs_does_not_hold_a_call(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(workers_module, "STATE_SECONDS", 0.2)
    workers = await pod.starts(HANGS)
    async with asyncio.timeout(5):
        await CALLS[call](workers)


@pytest.mark.parametrize("frees", [True, False])
async def test_a_worker_whose_queue_is_full_is_asked_until_the_time_is_over(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, frees: bool
) -> None:
    """A connection to a full queue of a Unix socket fails, it does not wait."""
    monkeypatch.setattr(workers_module, "STATE_SECONDS", 30 if frees else 0.2)
    with ExitStack() as stack:
        listener = socket.socket(socket.AF_UNIX)
        stack.callback(listener.close)
        listener.bind(pod.run.address(1))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(pod.run.address(1))
        asking = asyncio.create_task(Workers(pod.run, 1).states())
        for _ in range(10):
            await asyncio.sleep(0)
        if frees:
            listener.accept()[0].close()
            server = await asyncio.start_unix_server(_idle, sock=listener)
            stack.callback(server.close)
        (answer,) = await asking
        assert (answer.reply is not None) is frees


async def _idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(msgspec.json.encode(Reply(pid=1)) + b"\n")
    writer.close()


def test_a_passed_deadline_leaves_time_for_a_quick_answer() -> None:
    now = time.monotonic()
    assert 50 < seconds_until(now + 60) <= 60
    assert 0 < seconds_until(now - 60) <= 2
