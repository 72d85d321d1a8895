"""What must hold at every moment: each write of the record, each swap, each ending."""

from fraudops.errors import FraudopsError
from fraudops.promotion.attempt import Outcome
from fraudops.promotion.protocol import PromotionResult
from fraudops.promotion.serving_record import Reservation, ServingRecord, encode
from tests.support.simulation.cluster import SimPod
from tests.support.simulation.commits import CommitChecks
from tests.support.simulation.jobs import DEADLINES, RETRY, Job
from tests.support.simulation.world import Actor, SimulatedWorld

# Calls of one actor to the record within a window of seconds. A loop without a pause makes more.
CALLS, WINDOW = 60, 5.0
# What an act may take beyond its deadlines and the delays of faults.
SLACK_SECONDS = 60.0


class Checks:
    """Remembers what happened, and raises Violation when a rule is broken."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.world = world
        self.commits = CommitChecks(world, self)
        self.decided: dict[str, ServingRecord] = {}
        self.reserved: dict[str, int] = {}
        self.reserved_targets: list[Reservation] = []
        self.reported: set[str] = set()
        self.promised: int | None = None
        # Results of each request's running or last try, and what its earlier tries reported.
        self.last_result: dict[str, PromotionResult] = {}
        self.earlier_outcomes: dict[str, set[Outcome]] = {}
        # Requests whose outcome neither PostgreSQL nor the record could keep.
        self.unstored: set[str] = set()
        # Requests of which two processes were alive at the same time.
        self.doubled: set[str] = set()
        # The request of release 0.2.0 whose row is late, if there is one.
        self.old_request: str | None = None

    # -- the record

    def on_record_call(self, actor: Actor) -> None:
        now = self.world.clock
        actor.record_calls = [at for at in actor.record_calls if now - at < WINDOW] + [now]
        if len(actor.record_calls) > CALLS:
            raise self.world.violated(
                "bounded calls",
                f"{actor.name} calls the store of the record {CALLS} times in {WINDOW:g} s",
            )

    def on_decision(self, actor: Actor, record: ServingRecord) -> None:
        self.decided[actor.name] = record

    def on_write(self, actor: Actor, before: ServingRecord, after: ServingRecord) -> None:
        if after.reserved and after.reserved != before.reserved:
            self._on_reserve(actor, before, after)
        if after.epoch != before.epoch:
            self.world.note(f"{actor.name} commits {_named(after)}")
            self.commits.on_commit(actor, before, after)
            if self.world.happens("pods fall silent after a commit", actor.name):
                self.world.cluster.fall_silent(actor.name)
            if self.world.happens("a container ends after a commit", actor.name):
                self.world.cluster.end_a_container(actor.name)
        elif (before.current, before.stack) != (after.current, after.stack):
            raise self.world.violated(
                "only a commit changes what serves",
                f"{actor.name} has changed the current entry or the stack without a commit",
            )
        # A rollout may answer with both versions from its reservation on.
        if after.epoch != self.promised or (
            after.reserved and after.reserved.strategy == "rollout"
        ):
            self.promised = None

    def _on_reserve(self, actor: Actor, before: ServingRecord, after: ServingRecord) -> None:
        reserved, job = after.reserved, actor.job
        assert reserved is not None
        actor.reserved_at, actor.reserved_epoch = self.world.clock, reserved.epoch
        if job is None or reserved.by != job.id:
            raise self.world.violated("own reservation", f"{actor.name} reserves for {reserved.by}")
        self.reserved[job.id] = reserved.epoch
        self.reserved_targets.append(reserved)
        decided = self.decided.get(actor.name)
        if decided is None or encode(decided) != encode(before):
            raise self.world.violated(
                "decide and reserve on one read",
                f"{actor.name} reserves epoch {reserved.epoch} over a record that its gate "
                "has not seen",
            )
        if job.if_epoch is not None and job.if_epoch != before.epoch:
            raise self.world.violated(
                "if-epoch", f"{actor.name} acts on epoch {before.epoch}, not on {job.if_epoch}"
            )
        if reserved.epoch <= before.highest_epoch:
            raise self.world.violated("growing epochs", f"epoch {reserved.epoch} is used twice")

    # -- pods

    def on_serve(self, pod: SimPod, before: object) -> None:
        self.commits.on_serve(pod, before)

    def look_at(self, pod: SimPod) -> None:
        """Check that the pod keeps the promise of the last success, if it answers clients."""
        if self.promised is None or not pod.answers_clients:
            return
        current = self.world.store.record.current
        if current and pod.state.digest != current.digest:
            raise self.world.violated(
                "no old answer",
                f"{pod.name} answers with version {pod.state.version} after version "
                f"{current.version} was promised (epoch {current.epoch})",
            )

    # -- the ends of processes

    def on_try(self, job: Job) -> None:
        self.last_result.pop(job.id, None)

    def on_error(self, actor: Actor, error: FraudopsError) -> None:
        if error.exit_code == RETRY:
            if "cannot store that" in str(error) and actor.job:
                self.unstored.add(actor.job.id)
            return
        if actor.job is None or self.commits.knew_its_commit(actor):
            raise self.world.violated(
                "errors after the commit",
                f"{actor.name} ends with exit code {error.exit_code} after its commit: {error}",
            )

    def on_result(self, actor: Actor, result: PromotionResult) -> None:
        job = actor.job
        assert job is not None
        self._check_words(job, result)
        self._check_duration(actor)
        self._check_refusal(actor, job, result)
        self._check_own_commit(job, result)
        current = self.world.store.record.current
        success = result.outcome in ("done", "unchanged", "failed")
        if success and current and current.epoch == result.epoch:
            self._check_counts_pods(job, result)
            self._promise(result)
        self.reported.add(job.id)
        self.last_result[job.id] = result
        self.earlier_outcomes.setdefault(job.id, set()).add(result.outcome)

    def _check_words(self, job: Job, result: PromotionResult) -> None:
        if result.outcome != "done" and not result.reason:
            raise self.world.violated(
                "a reason", f"{job.id} ends as {result.outcome} without a reason"
            )
        nameless = any(
            words in (result.reason or "")
            for words in ("cannot be read", "no pod of the inference")
        )
        if result.outcome == "unconfirmed" and not (result.behind or nameless):
            raise self.world.violated("names of pods", f"{job.id} is unconfirmed and names no pod")

    def _check_duration(self, actor: Actor) -> None:
        limit = max(DEADLINES.prepare, DEADLINES.rollout) + DEADLINES.activate
        limit = (limit + 2 * DEADLINES.retry) / actor.rate + SLACK_SECONDS + actor.delayed
        taken = self.world.clock - (actor.locked_at or 0.0)
        if taken > limit:
            raise self.world.violated(
                "deadlines", f"{actor.name} took {taken:.0f} s of {limit:.0f} s"
            )

    def _check_refusal(self, actor: Actor, job: Job, result: PromotionResult) -> None:
        if result.outcome != "refused":
            return
        if job.id in self.commits.by_request:
            raise self.world.violated(
                "refused means unchanged", f"{job.id} was refused after its commit"
            )
        if actor.reserved_at == 0.0:
            return
        self._check_rollout_is_over(actor, job, result)
        epoch = actor.reserved_epoch
        waited = (self.world.clock - actor.reserved_at) * actor.rate
        vetoes = [pod.name for pod in self.world.cluster.pods if epoch in pod.refused_epochs]
        by_pod = "pod pod-" in (result.reason or "")
        if by_pod and not vetoes and waited < DEADLINES.prepare - 1:
            raise self.world.violated(
                "temporary faults are not final",
                f"{job.id} was refused after {waited:.0f} s, and no pod has refused: "
                f"{result.reason}",
            )
        if by_pod and waited < 1.5 * DEADLINES.prepare and job.strategy == "broadcast":
            self._check_vetoes(actor, job, epoch)

    def _check_rollout_is_over(self, actor: Actor, job: Job, result: PromotionResult) -> None:
        """No pod answers with the version of a refused rollout, unless the result names the pod."""
        for pod in self.world.cluster.pods:
            named = {pod.name, "every pod"} & set(result.behind)
            serves = pod.answers_clients and pod.state.epoch == actor.reserved_epoch
            if serves and not named and pod.name not in actor.unanswered:
                raise self.world.violated(
                    "a refused rollout is over",
                    f"{job.id} was refused, and {pod.name} answers with version "
                    f"{pod.state.version} (epoch {pod.state.epoch})",
                )

    def _check_own_commit(self, job: Job, result: PromotionResult) -> None:
        """An act is overtaken only by another act, and says so if it was undone."""
        current = self.world.store.record.current
        own = current is not None and current.by == job.id
        if result.outcome == "overtaken" and own:
            raise self.world.violated(
                "only another act overtakes", f"{job.id} is overtaken, and its own commit serves"
            )
        if own and result.outcome != "overtaken" and result.undone != (current.act == "undo"):
            raise self.world.violated(
                "an undo is reported", f"{job.id} ends with undone={result.undone}"
            )

    def _check_vetoes(self, actor: Actor, job: Job, epoch: int) -> None:
        """Pods that take no connections have no veto while others have prepared."""
        cluster = self.world.cluster
        voters = [
            pod for pod in cluster.pods if not pod.gone and cluster.ref(pod).takes_connections
        ]
        heard = all(
            epoch in pod.prepared_epochs
            and epoch not in pod.refused_epochs
            and pod.name not in actor.unanswered
            for pod in voters
        )
        quiet = self.world.clock - cluster.last_change > 15.0 + actor.delayed
        if voters and heard and quiet:
            raise self.world.violated(
                "unready pods have no veto",
                f"{job.id} was refused, and every pod that takes connections has prepared",
            )

    def _check_counts_pods(self, job: Job, result: PromotionResult) -> None:
        cluster = self.world.cluster
        confirmed = any(pod.state.epoch >= result.epoch for pod in cluster.pods)
        if cluster.replicas and not confirmed:
            raise self.world.violated(
                "no pod is no success", f"{job.id} is {result.outcome} without a pod"
            )

    def _promise(self, result: PromotionResult) -> None:
        reserved = self.world.store.record.reserved
        if reserved and reserved.strategy == "rollout":
            return
        self.promised = result.epoch
        for pod in self.world.cluster.pods:
            if not pod.gone:
                self.look_at(pod)


def _named(record: ServingRecord) -> str:
    entry = record.current
    assert entry is not None
    return f"the {entry.act} to version {entry.version} as epoch {entry.epoch}"
