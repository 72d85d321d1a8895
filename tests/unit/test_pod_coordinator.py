"""One act of a pod's coordinator at a time, over one real worker and no poller.

The test decides what the worker and the bundle verifier answer, and what the record says.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import (
    EMPTY,
    ServingRecord,
    ServingTarget,
)
from fraudops.state import State
from services.inference.folders import VERIFIED
from services.inference.metrics import Metrics
from services.inference.pod import coordinator as coordinator_module
from services.inference.pod import workers as workers_module
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.bundle_verifier import BundleRequest, VerificationOutcome
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.state import (
    RecordView,
    pod_state_path,
    read_pod_state,
    read_record_view,
    record_view_path,
    write,
)
from services.inference.pod.worker import Drain, Worker
from services.inference.pod.worker_channel import Ask, Reply, RunFolder
from services.inference.pod.workers import Workers
from tests.support.bundles import write_linear_bundle
from tests.support.serving_records import record

LATER = ServingTarget(5, "5", "5" * 64)


@dataclass
class Pod:
    """`refusals` are what the worker answers instead of its next replies to that operation."""

    state: State
    worker: Worker
    run: RunFolder
    record: ServingRecord | Exception = EMPTY
    wanted: int = 1
    # Where the verifier finds every bundle; it never answers without one.
    source: str = "registry"
    refusals: dict[str, list[Reply]] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    asked: list[Ask] = field(default_factory=list)
    verified: list[BundleRequest] = field(default_factory=list)
    reads: int = 0

    def target(self, epoch: int, *, verified: bool = True) -> ServingTarget:
        """Put a bundle of that seed into the cache."""
        made = self.state.root / "made"
        digest = write_linear_bundle(made, epoch)
        made.rename(self.state.bundles / digest)
        if verified:
            (self.state.run / f"{VERIFIED}{digest}").write_text(f"{epoch} ")
        return ServingTarget(epoch, str(epoch), digest)

    def coordinator(self, template: ServingTarget | None = None) -> PodCoordinator:
        cache = BundleCache(self.state.bundles, self.run, self.state.public_keys)
        workers = Workers(self.run, self.wanted)
        return PodCoordinator(self.state, workers, cache, self.read, template)

    async def serves(self, at: ServingTarget) -> None:
        """Let the pod serve the target as after a finished activation, and be ready."""
        write(pod_state_path(self.state), PodState().serving(at, "peer"))
        write(record_view_path(self.state), RecordView(target=at, ready=True))
        await self.worker.activate(at, "peer")

    def read(self) -> ServingRecord:
        self.reads += 1
        if isinstance(self.record, Exception):
            raise self.record
        return self.record

    async def answer(self, ask: Ask) -> Reply:
        self.asked.append(ask)
        await asyncio.sleep(self.delays.get(ask.op, 0.0))
        if refusals := self.refusals.get(ask.op):
            return refusals.pop(0)
        return await self.worker.answer(ask)

    def operations(self) -> list[str]:
        return [ask.op for ask in self.asked if ask.op != "state"]

    async def verify(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.verified.append(msgspec.json.decode(await reader.readline(), type=BundleRequest))
        if self.source:
            outcome = VerificationOutcome(source=self.source)
            writer.write(msgspec.json.encode(outcome) + b"\n")
        else:
            await reader.read()
        writer.close()


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    state = State.at(tmp_path)
    for folder in (state.run, state.bundles, state.metrics):
        folder.mkdir()
    run = RunFolder(state.run)
    made = Pod(state, Worker(state.bundles, Metrics(state.metrics), Drain()), run)
    worker = await run.serve(made.answer)
    listener = run.listen_for_verifications()
    verifier = await asyncio.start_unix_server(made.verify, sock=listener)
    yield made
    worker.close()
    verifier.close()


def refused(text: str = "altered", temporary: bool = False) -> Reply:
    return Reply(pid=os.getpid(), error=text, temporary=temporary)


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Converse as a worker that never answers."""
    await reader.read()
    writer.close()


# Preparations.


async def test_a_preparation_of_a_verified_bundle_asks_no_verifier(pod: Pod) -> None:
    at = pod.target(5)
    await pod.coordinator().prepare(at, 60.0)
    assert pod.verified == []
    assert pod.asked == [Ask(op="prepare", target=at, source="cache", seconds=60.0)]
    assert read_pod_state(pod.state) == PodState()


async def test_a_preparation_fetches_a_bundle_and_keeps_its_source(pod: Pod) -> None:
    at = pod.target(5, verified=False)
    await pod.coordinator().prepare(at, 60.0)
    assert pod.verified == [BundleRequest(at.version, at.digest)]
    assert [ask.source for ask in pod.asked] == ["registry"]


async def test_a_bundle_that_a_worker_refuses_is_verified_again(pod: Pod) -> None:
    at = pod.target(5)
    pod.refusals["prepare"] = [refused()]
    await pod.coordinator().prepare(at, 60.0)
    assert len(pod.verified) == 1
    assert pod.operations() == ["prepare", "drop", "prepare"]
    assert [ask.source for ask in pod.asked if ask.op == "prepare"] == ["cache", "registry"]
    assert {ask.seconds for ask in pod.asked if ask.op == "prepare"} == {60.0}


async def test_a_bundle_that_a_worker_refuses_twice_is_not_prepared(pod: Pod) -> None:
    at = pod.target(5)
    pod.refusals["prepare"] = [refused(), refused()]
    with pytest.raises(RefusedError, match=r"version 5 was not prepared: .*altered"):
        await pod.coordinator().prepare(at, 60.0)


async def test_a_bundle_is_not_verified_again_for_a_worker_that_hangs(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "STATE_SECONDS", 0.3)
    hanging = await asyncio.start_unix_server(hang, pod.run.address(1))
    with pytest.raises(StoreDownError, match=r"version 5 .* worker 1 does not answer"):
        await pod.coordinator().prepare(pod.target(5), 0.0)
    hanging.close()
    assert pod.verified == []


async def test_a_preparation_may_take_as_long_as_the_caller_allows(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "STATE_SECONDS", 0.3)
    pod.delays["prepare"] = 0.6
    await pod.coordinator().prepare(pod.target(5), 30.0)
    at = pod.target(6)
    pod.record = record(at)
    await pod.coordinator().activate(seconds=30.0)
    assert pod.worker.serving is not None
    assert pod.worker.serving.target == at


async def test_a_verifier_that_never_answers_does_not_hold_a_preparation(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "STATE_SECONDS", 0.3)
    pod.source = ""
    async with asyncio.timeout(5):
        with pytest.raises(StoreDownError, match="was not fetched and verified"):
            await pod.coordinator().prepare(pod.target(5, verified=False), 0.1)


# Activations.


async def test_an_activation_prepares_commits_activates_and_turns_the_pod_ready(
    pod: Pod,
) -> None:
    at = pod.target(5)
    pod.record = record(at)
    await pod.coordinator().activate()
    assert pod.operations() == ["prepare", "activate"]
    assert read_pod_state(pod.state) == PodState().serving(at, "cache")
    assert read_record_view(pod.state) == RecordView(target=at, ready=True)
    # The record is read for the activation, and for the last look before the pod turns ready.
    assert pod.reads == 2


async def test_an_activation_keeps_the_source_of_a_prepared_bundle(pod: Pod) -> None:
    at = pod.target(5, verified=False)
    await pod.coordinator().prepare(at, 60.0)
    pod.record = record(at)
    await pod.coordinator().activate(at)
    assert read_pod_state(pod.state).source == "registry"
    assert pod.worker.serving is not None
    assert pod.worker.serving.source == "registry"


async def test_an_activation_that_fetches_the_bundle_keeps_its_source(pod: Pod) -> None:
    at = pod.target(5, verified=False)
    pod.record = record(at)
    await pod.coordinator().activate()
    assert read_pod_state(pod.state) == PodState().serving(at, "registry")


async def test_an_activation_that_fails_to_prepare_commits_nothing(pod: Pod) -> None:
    old, new = pod.target(4), pod.target(5)
    await pod.serves(old)
    pod.record, pod.refusals["prepare"] = record(new), [refused(), refused()]
    with pytest.raises(RefusedError):
        await pod.coordinator().activate()
    assert read_pod_state(pod.state).target == old
    assert "activate" not in pod.operations()


async def test_an_activation_of_what_serves_prepares_nothing(pod: Pod) -> None:
    at = pod.target(4)
    await pod.serves(at)
    pod.record = record(at)
    await pod.coordinator().activate(at)
    assert pod.operations() == ["activate"]
    # A ready pod needs no last look.
    assert pod.reads == 1


async def test_an_activation_takes_only_what_the_caller_expects(pod: Pod) -> None:
    at = pod.target(4)
    pod.record = record(at)
    with pytest.raises(StoreDownError, match="not yet at 5"):
        await pod.coordinator().activate(ServingTarget(5, "", ""))
    assert (pod.asked, read_pod_state(pod.state)) == ([], PodState())


async def test_an_activation_follows_the_template_while_the_record_reserves_it(
    pod: Pod,
) -> None:
    old, new = pod.target(4), pod.target(5)
    pod.record = record(old, reserved=new)
    await pod.coordinator(template=new).activate()
    assert read_pod_state(pod.state).target == new
    assert new.digest in {path.name for path in pod.state.bundles.iterdir()}


async def test_an_activation_removes_the_bundles_that_are_not_needed(pod: Pod) -> None:
    stale, old, new, later = (pod.target(epoch) for epoch in (3, 4, 5, 6))
    await pod.serves(old)
    await pod.worker.prepare(later, "cache", 60.0)
    pod.record = record(new)
    await pod.coordinator().activate()
    kept = {path.name for path in pod.state.bundles.iterdir()}
    assert kept == {old.digest, new.digest, later.digest}
    assert stale.digest not in kept


@pytest.mark.parametrize(
    ("wanted", "later", "ready"),
    [
        (1, None, True),
        (2, None, False),
        (1, record(LATER), False),
        (1, StoreDownError("no answer"), False),
    ],
)
async def test_a_pod_turns_ready_only_with_all_workers_and_after_the_last_look(
    pod: Pod, wanted: int, later: ServingRecord | Exception | None, ready: bool
) -> None:
    at = pod.target(4)
    pod.wanted, pod.record = wanted, record(at)
    coordinator = pod.coordinator()
    if later:
        # The record changes after it was read for the activation.
        prepare = coordinator.workers.prepare

        async def prepare_slowly(*arguments: Any) -> Any:
            pod.record = later
            return await prepare(*arguments)

        coordinator.workers.prepare = prepare_slowly  # type: ignore[method-assign]
    await coordinator.activate()
    view = read_record_view(pod.state)
    assert view.ready is ready
    if wanted == 1:
        assert view.target == (LATER if isinstance(later, ServingRecord) else at)
    assert read_pod_state(pod.state).target == at


async def test_the_last_look_of_a_rollouts_pod_awaits_its_templates_target(pod: Pod) -> None:
    old, new = pod.target(4), pod.target(5)
    pod.record = record(old, reserved=new)
    now = PodState().serving(new, "cache")
    view = await pod.coordinator(template=new).last_look(now, RecordView(target=new))
    assert view == RecordView(target=new, ready=True)


async def test_a_pod_with_a_worker_that_hangs_does_not_turn_ready(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "STATE_SECONDS", 0.3)
    at = pod.target(4)
    await pod.serves(at)
    hanging = await asyncio.start_unix_server(hang, pod.run.address(1))
    workers = pod.coordinator().workers
    assert not await workers.is_complete(read_pod_state(pod.state))
    assert not await workers.all_serve(read_pod_state(pod.state))
    hanging.close()


@pytest.mark.parametrize(
    ("found", "ready"),
    [
        (record(ServingTarget(4, "1", "1" * 64)), True),
        (record(ServingTarget(5, "1", "1" * 64)), False),
        (OSError(5, "Input/output error"), None),
        (StoreDownError("no answer"), None),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
async def test_the_last_look_decides_unless_a_restarted_container_gets_no_answer(
    pod: Pod, found: ServingRecord | Exception, ready: bool | None, restarted: bool
) -> None:
    pod.record = found
    now = PodState(restarted=restarted).serving(ServingTarget(4, "1", "1" * 64), "cache")
    view = await pod.coordinator().last_look(now, RecordView(target=now.target))
    assert view.ready is (restarted if ready is None else ready)
    seen = found.current if isinstance(found, ServingRecord) else None
    assert view.target == (seen.target if seen else now.target)


async def test_a_record_that_the_disk_does_not_return_is_a_store_that_is_down(pod: Pod) -> None:
    pod.record = OSError(5, "Input/output error")
    with pytest.raises(StoreDownError, match=r"cannot be read \(Input/output error"):
        await pod.coordinator().record()


# A template that cannot be loaded, and a coordinator that has died.


async def test_a_pod_whose_template_fails_takes_the_records_own_model_once(pod: Pod) -> None:
    old, new = pod.target(4), pod.target(5)
    pod.record = record(old, reserved=new)
    coordinator = pod.coordinator(template=new)
    await coordinator.follow_without_template()
    assert read_pod_state(pod.state).target == old
    pod.asked.clear()
    await coordinator.follow_without_template()
    assert pod.asked == []


async def test_a_pod_without_a_model_has_nothing_to_finish(pod: Pod) -> None:
    await pod.coordinator().finish()
    assert pod.asked == []


async def test_a_worker_that_lost_its_bundle_gets_it_again(pod: Pod) -> None:
    at = pod.target(4)
    write(pod_state_path(pod.state), PodState().serving(at, "peer"))
    pod.refusals["activate"] = [refused("its bundle cannot be read", temporary=True)]
    await pod.coordinator().finish()
    assert pod.verified == [BundleRequest(at.version, at.digest)]
    assert pod.operations() == ["activate", "activate"]
    assert pod.worker.serving is not None
    assert pod.worker.serving.target == at


async def test_a_verifier_that_never_answers_does_not_hold_a_finish(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_module, "PREPARE_SECONDS", 0.2)
    write(pod_state_path(pod.state), PodState().serving(pod.target(4), "peer"))
    pod.source, pod.refusals["activate"] = "", [refused()]
    async with asyncio.timeout(10):
        with pytest.raises(StoreDownError, match="was not fetched and verified"):
            await pod.coordinator().finish()


async def test_a_pod_that_cannot_be_finished_says_so(pod: Pod) -> None:
    write(pod_state_path(pod.state), PodState().serving(pod.target(4), "peer"))
    pod.refusals["activate"] = [refused(), refused()]
    with pytest.raises(StoreDownError, match="not every worker has followed"):
        await pod.coordinator().finish()
