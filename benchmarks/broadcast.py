"""`python -m benchmarks.broadcast`: the time of a promotion by broadcast, by number of pods.

The time runs from the lock to the confirmation of the last pod. The promoter, its admin client
and the record are the product's own. One real pod is measured first. Many fake pods then take as
long as it did.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx
import msgspec

from benchmarks import models, results
from benchmarks.commands import BenchmarkPlan, conclude, quick_option, results_option, say, site
from benchmarks.fake_pods import WORKERS, ServiceTimes
from benchmarks.models import BenchmarkModels
from benchmarks.processes import SubjectError, bare_environment, wait_until
from benchmarks.product import product
from benchmarks.protocols import TRANSACTION
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, Spread, ratio, spread
from benchmarks.subjects import BenchmarkSite
from benchmarks.turns import order
from fraudops.model.manifest import read_manifest, seal
from fraudops.promotion.admin_client import PodAdminClient
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import Promote, decide_promotion
from fraudops.promotion.local import FileLock, FileRecordStore, LocalRecords, SystemClock
from fraudops.promotion.ports import PodRef, PromotionPorts
from fraudops.promotion.protocol import Promoter
from fraudops.promotion.request import PromotionRequest
from fraudops.promotion.serving_record import ModelRef, ServingEntry, ServingRecord, ServingTarget

PODS = (3, 10, 25, 50)
SAMPLES = 20
TOKEN = "a-token-of-the-benchmarks"
TIMEOUT_SECONDS = 30.0


@click.command()
@click.option(
    "--rounds",
    "number",
    default=9,
    show_default=True,
    help="Promotions for each number of pods.",
)
@results_option
@quick_option
def command(number: int, results: Path | None, quick: bool) -> None:
    """Measure a broadcast to 3, 10, 25 and 50 pods."""
    with site(with_database=False) as place:
        result = measure(place, BenchmarkPlan.of(number, 0.0, None, quick))
    conclude(result, results)


def measure(place: BenchmarkSite, plan: BenchmarkPlan) -> Result:
    result = results.begin("broadcast", "How a promotion by broadcast grows with the pods", plan)
    result.settings = {"rounds": plan.rounds, "workers": WORKERS}
    times = measure_a_pod(place, 3 if plan.quick else SAMPLES)
    taken: dict[int, list[Phases]] = {count: [] for count in PODS}
    for number in range(plan.rounds):
        for count in order(PODS, number):
            taken[count].append(promote(place.fresh(f"pods-{count}"), count, times, seed=number))
            say(f"{count} pods: {taken[count][-1].whole:.3f} s")
    growth = {
        count: ratio([one.whole for one in taken[count]], [one.whole for one in taken[PODS[0]]])
        for count in PODS
    }
    result.tables = [_calls(times), _growth(taken, growth)]
    result.claims = [
        Claim(
            f"A broadcast to {PODS[-1]} pods takes at most three times as long as one to {PODS[0]}",
            growth[PODS[-1]],
            3.0,
            "at most",
        )
    ]
    result.notes = [
        "The fake pods are HTTP servers that wait for a random time of the measured pod."
        " The slowest pod counts. Promoter and admin client are the product's.",
        "Not included: the download of the bundle (the measured pod had it in its cache and"
        " verified it again), the Kubernetes API, and the registry's alias.",
    ]
    result.details = {"times": times, "phases": taken, "ratio": growth}
    return result


def measure_a_pod(place: BenchmarkSite, samples: int) -> ServiceTimes:
    """Return the seconds of each call to one real pod that has this machine to itself.

    Each bundle is new to the pod. It is prepared and then committed.
    """
    settings = {"FRAUDOPS_ADMIN_TOKEN": TOKEN, "FRAUDOPS_RECORD_POLL_SECONDS": "60"}
    times = ServiceTimes([], [], [])
    with product(
        place.fresh("pod"),
        place.models,
        "linear",
        WORKERS,
        settings,
        place.bodies(TRANSACTION),
        None,
    ) as pod:
        store = FileRecordStore(pod.state.serving_record)
        with httpx.Client(
            base_url=pod.url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        ) as client:
            wait_until(lambda: client.get("/ready").status_code == 200, "the pod is not ready")
            for epoch in range(2, samples + 2):
                target = ServingTarget(
                    epoch, str(epoch), another_bundle(place.models, pod.state.bundles, epoch)
                )
                identity = {"version": target.version, "digest": target.digest, "epoch": epoch}
                times.ready.append(timed(client.build_request("GET", "/ready"), client))
                times.prepare.append(
                    timed(
                        client.build_request(
                            "POST",
                            "/reload",
                            json={"phase": "prepare", "deadline_seconds": TIMEOUT_SECONDS}
                            | identity,
                        ),
                        client,
                    )
                )
                store.compare_and_set(
                    ServingRecord(current=entry(target), alias_epoch=epoch), store.read()[1]
                )
                times.commit.append(
                    timed(
                        client.build_request(
                            "POST", "/reload", json={"phase": "commit", "epoch": epoch}
                        ),
                        client,
                    )
                )
    return times


def timed(request: httpx.Request, client: httpx.Client) -> float:
    started = time.perf_counter()
    answer = client.send(request)
    seconds = time.perf_counter() - started
    if answer.status_code != 200:
        raise SubjectError(f"{request.url.path} answered {answer.status_code}: {answer.text[:300]}")
    return seconds


def entry(target: ServingTarget) -> ServingEntry:
    return ServingEntry(
        epoch=target.epoch,
        version=target.version,
        digest=target.digest,
        schema_fingerprint="s",
        by="b",
        act="promote",
        at="2026-01-01T00:00:00Z",
        verdict={},
    )


def another_bundle(models: BenchmarkModels, bundles: Path, number: int) -> str:
    """Put the same model under another digest into the pod's cache, and return the digest."""
    made = bundles.parent / f"made-{number}"
    shutil.copytree(models.folder / "linear", made)
    digest = seal(
        made, msgspec.structs.replace(read_manifest(made), git_revision=f"benchmark {number}")
    )
    made.rename(bundles / digest)
    return digest


@dataclass
class Phases:
    """Seconds from the promotion's begin to each step that the promoter reported.

    `whole` is the time until it returned.
    """

    reserved: float = 0.0
    committed: float = 0.0
    whole: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def record_step(self, text: str) -> None:
        if text.startswith("reserved"):
            self.reserved = self.now
        elif text.startswith("committed"):
            self.committed = self.now

    @property
    def now(self) -> float:
        return time.perf_counter() - self._started


class LoopbackPods:
    """The pods as the cluster's are called: one list, and an admin client for each."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._clients = {
            f"pod-{number}": PodAdminClient(f"http://127.0.0.1:{port}", TOKEN)
            for number, port in enumerate(ports)
        }

    async def list(self) -> Sequence[PodRef]:
        return [PodRef(name, ready=True) for name in self._clients]

    async def desired_replicas(self) -> int:
        return len(self._clients)

    async def epoch(self, pod: PodRef) -> int:
        return await self._clients[pod.name].epoch()

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        await self._clients[pod.name].prepare(target, seconds)

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        return await self._clients[pod.name].activate(epoch, seconds)

    async def drop(self, pod: PodRef, target: ServingTarget) -> None:
        await self._clients[pod.name].drop(target)

    async def delete(self, pod: PodRef) -> None:
        raise SubjectError(f"{pod.name} did not answer")


class MemoryAliases:
    def __init__(self) -> None:
        self._versions: dict[str, str] = {}

    async def get(self, alias: str) -> str | None:
        return self._versions.get(alias)

    async def set(self, alias: str, version: str) -> None:
        self._versions[alias] = version

    async def drop(self, alias: str) -> None:
        self._versions.pop(alias, None)

    async def exists(self, version: str) -> bool:
        return True


class NoJournal:
    async def write(self, attempt: Attempt) -> None:
        """Keep nothing: the journal's rows are not measured."""


@contextmanager
def fake_pods(
    folder: Path, count: int, record: Path, times: ServiceTimes, seed: int
) -> Iterator[list[int]]:
    """Run `count` fake pods in another process and yield their ports."""
    drawn = folder / "times.json"
    drawn.write_bytes(msgspec.json.encode(times))
    command = [
        sys.executable,
        "-m",
        "benchmarks.fake_pods",
        str(count),
        str(record),
        str(drawn),
        str(seed),
    ]
    with subprocess.Popen(
        command,
        cwd=models.ROOT,
        env=bare_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()


def promote(folder: Path, count: int, times: ServiceTimes, seed: int) -> Phases:
    """Run two promotions to `count` pods and return the phases of the second.

    The first one opens the connections that the promoter keeps. Raises SubjectError unless every
    pod serves the promoted version.
    """
    folder.mkdir()
    with fake_pods(folder, count, folder / "serving.json", times, seed) as ports:
        pods = LoopbackPods(ports)
        return asyncio.run(_promote_twice(folder, pods))


async def _promote_twice(folder: Path, pods: LoopbackPods) -> Phases:
    records, phases = LocalRecords(FileRecordStore(folder / "serving.json")), Phases()
    for version in ("1", "2"):
        phases = Phases()
        promoter = Promoter(
            PromotionPorts(
                records=records,
                lock=FileLock(folder / "lock"),
                aliases=MemoryAliases(),
                pods=pods,
                journal=NoJournal(),
                clock=SystemClock(),
                say=phases.record_step,
            )
        )
        model = ModelRef(
            version=version, digest=version * 64, schema_fingerprint="s", verdict={"passed": True}
        )

        async def decide(record: ServingRecord, model: ModelRef = model) -> Promote:
            return decide_promotion(record, model, "broadcast")

        result = await promoter.run(
            PromotionRequest(f"request {version}", "a benchmark", decide, version=version)
        )
        phases.whole = phases.now
        epochs = {await pods.epoch(pod) for pod in await pods.list()}
        if result.outcome != "done" or epochs != {result.epoch}:
            raise SubjectError(
                f"the promotion ended {result.outcome} ({result.reason}), the pods at {epochs}"
            )
    return phases


def _calls(times: ServiceTimes) -> Table:
    rows = [
        (what, str(spread([seconds * 1000 for seconds in getattr(times, what)])))
        for what in ("ready", "prepare", "commit")
    ]
    return Table("Times of one real pod", ("call", "milliseconds"), rows)


def _growth(taken: dict[int, list[Phases]], growth: dict[int, Spread]) -> Table:
    rows = []
    for count, runs in taken.items():
        prepared, activated = (
            spread([run.committed - run.reserved for run in runs]),
            spread([run.whole - run.committed for run in runs]),
        )
        rows.append(
            (
                str(count),
                str(spread([run.whole for run in runs])),
                str(prepared),
                str(activated),
                str(growth[count]),
            )
        )
    return Table(
        "Seconds from the lock to the last pod",
        ("pods", "whole", "of which to prepare", "to activate", f"whole, to {PODS[0]} pods"),
        rows,
    )


if __name__ == "__main__":
    command()
