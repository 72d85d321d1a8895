"""What must hold when the faults have ended and the reconciler has run."""

from fraudops.promotion.attempt import Outcome
from fraudops.promotion.changes import way_back
from tests.support.simulation.cluster import SimPod
from tests.support.simulation.jobs import Job, JobRunner
from tests.support.simulation.world import SimulatedWorld

ENDED: dict[str, frozenset[Outcome]] = {
    # What the row may say of a request whose last process died.
    "committed": frozenset({"done", "unconfirmed", "overtaken"}),
    "undone": frozenset({"failed", "unconfirmed", "overtaken"}),
    "reserved": frozenset({"refused", "overtaken"}),
}


class Endings:
    def __init__(self, world: SimulatedWorld, runner: JobRunner) -> None:
        self.world, self.runner = world, runner

    def check(self, jobs: list[Job]) -> None:
        """Check record, aliases, pods and rows."""
        record = self.world.store.record
        if record.reserved:
            raise self.world.violated(
                "no reservation stays", f"epoch {record.reserved.epoch} is reserved"
            )
        if record.unwritten:
            raise self.world.violated(
                "rows are written", "the record still keeps rows of promotions"
            )
        for job in jobs:
            self._check_row(job)
        self._check_old_row()
        self._check_aliases()
        self.check_pods()

    def _check_row(self, job: Job) -> None:
        checks, row = self.world.checks, self.world.store.rows.get(job.id)
        outcome = row.outcome if row else None
        result = checks.last_result.get(job.id)
        if result:
            # What an earlier try has reported of its commit is final.
            committed = {"done": checks.commits.by_request, "failed": checks.commits.undone}
            final = job.id in committed.get(outcome or "", ())
            if outcome != result.outcome and not (final or self._is_of_another_try(job, outcome)):
                raise self.world.violated(
                    "rows are true", f"{job.id} ended as {result.outcome}, its row says {outcome}"
                )
            return
        if job.id in checks.commits.undone:
            allowed = ENDED["undone"]
        elif job.id in checks.commits.by_request:
            allowed = ENDED["committed"]
        elif job.id in checks.reserved:
            # A row keeps what an earlier try has reported; a death replaces only `started`.
            allowed = ENDED["reserved"] | checks.earlier_outcomes.get(job.id, set())
        else:
            return
        if job.id in checks.unstored:
            allowed |= {"started"}
        if outcome not in allowed:
            raise self.world.violated(
                "rows are true", f"{job.id} was {' or '.join(sorted(allowed))}, not {outcome}"
            )

    def _is_of_another_try(self, job: Job, outcome: str | None) -> bool:
        """Whether the row may be that of another process that was alive at the same time."""
        if job.id not in self.world.checks.doubled:
            return False
        if job.id in self.world.checks.commits.by_request:
            return outcome in ENDED["committed"] | ENDED["undone"]
        return outcome in ("refused", "overtaken", "unchanged", "unconfirmed")

    def _check_old_row(self) -> None:
        request = self.world.checks.old_request
        if request and self.world.store.rows[request].outcome == "started":
            raise self.world.violated(
                "rows of release 0.2.0", f"the row of {request} stays `started`"
            )

    def _check_aliases(self) -> None:
        record, registry = self.world.store.record, self.world.registry
        if record.current is None:
            return
        alias, noted = registry.aliases.get("production"), record.alias_error
        exists = record.current.version in registry.versions
        if not noted and (alias != record.current.version or not exists):
            raise self.world.violated(
                "aliases agree",
                f"the alias names version {alias}, the record {record.current.version}, and the "
                "record has no note about it",
            )
        self._check_last_writer(alias, record.current.version)
        back = way_back(record)
        wanted = back.version if back and back.version in registry.versions else None
        champion = registry.aliases.get("champion")
        if not noted and back and champion != wanted:
            raise self.world.violated(
                "aliases agree", f"champion is version {champion}, not {wanted}"
            )

    def _check_last_writer(self, alias: str | None, version: str) -> None:
        """A promoter that lives, and that no store has failed, leaves no wrong alias."""
        registry = self.world.registry
        writer = registry.writers.get("production")
        if alias == version or version not in registry.versions or writer is None:
            return
        if writer.alive and not writer.troubled and "production" not in registry.moved_by_hand:
            raise self.world.violated(
                "aliases agree",
                f"{writer.name} leaves the alias at version {alias}, the record names {version}",
            )

    def check_pods(self) -> None:
        for pod in self.world.cluster.pods:
            if not self._is_excused(pod):
                self._check_pod(pod)

    def _is_excused(self, pod: SimPod) -> bool:
        current = self.world.store.record.current
        return (
            current is None
            or pod.gone
            or pod.terminating
            or pod.lost is not None
            or pod.born > self.world.clock - 15
            or not self.world.cluster.can_load(pod, current.target)
        )

    def _check_pod(self, pod: SimPod) -> None:
        current = self.world.store.record.current
        assert current is not None
        if not pod.ready:
            raise self.world.violated(
                "no new pod stays unready",
                f"{pod.name} stays unready, and the record names version {current.version}: "
                f"{pod.fault}",
            )
        ahead_and_reported = pod.state.epoch > current.epoch and pod.fault is not None
        at = (pod.state.epoch, pod.state.digest)
        same_epoch_reported = pod.state.epoch == current.epoch and pod.fault is not None
        if at != (current.epoch, current.digest) and not (
            ahead_and_reported or same_epoch_reported
        ):
            raise self.world.violated(
                "record and pods agree",
                f"{pod.name} serves version {pod.state.version} (epoch {pod.state.epoch}), the "
                f"record names version {current.version} (epoch {current.epoch})",
            )
