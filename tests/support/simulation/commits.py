"""What must hold at a commit: the stack, who may undo, admission, vetoes and the schema."""

from typing import TYPE_CHECKING

from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import ServingEntry, ServingRecord, ServingTarget
from tests.support.simulation.cluster import SimPod
from tests.support.simulation.registry import KINDS, WRONG
from tests.support.simulation.world import Actor, SimulatedWorld

if TYPE_CHECKING:
    from tests.support.simulation.checks import Checks

Model = tuple[str, str]
# A pod that has been ready for this long is in the promoter's last list before its commit.
SETTLED_SECONDS = 4.0
# The longest that a commit may follow the last pod that it has waited for.
PATIENCE_SECONDS = 12.0


class CommitChecks:
    """Checks every commit against its act, and every swap against the commits."""

    def __init__(self, world: SimulatedWorld, checks: "Checks") -> None:
        self.world, self.checks = world, checks
        self.by_request: dict[str, int] = {}
        self.moments: dict[str, float] = {}
        self.undone: set[str] = set()
        self.targets: set[tuple[int, str]] = set()
        self.admitted: set[str] = set()
        self.last_way_back: int | None = None

    def founded(self, record: ServingRecord) -> None:
        """Take over what the scenario begins with."""
        for entry in (record.current, record.previous, *record.stack):
            if entry:
                self.targets.add((entry.epoch, entry.digest))
                self.admitted.add(entry.digest)

    def on_commit(self, actor: Actor, before: ServingRecord, after: ServingRecord) -> None:
        entry = after.current
        assert entry is not None
        if entry.epoch <= before.epoch:
            raise self.world.violated(
                "growing epochs", f"epoch {entry.epoch} follows epoch {before.epoch}"
            )
        if after.previous != before.current and entry.act != "undo":
            raise self.world.violated("previous", "`previous` is not what the act has replaced")
        self._check_schema(before, entry)
        if entry.act == "undo":
            self._check_undo(actor, before, after)
        else:
            self._check_reserved(actor, before, entry)
            if entry.act == "rollback":
                self._check_rollback(before, after)
            else:
                self._check_promotion(actor, before, after)
            self.by_request[entry.by] = entry.epoch
            self.moments[entry.by] = self.world.clock
            actor.committed = True
            # An earlier try may have reported that the store was down.
            self.checks.reported.discard(entry.by)
            # A process that was lost may commit after a later one has ended.
            self.checks.last_result.pop(entry.by, None)
            if entry.strategy == "broadcast":
                self._check_votes(actor, entry)
        self.targets.add((entry.epoch, entry.digest))

    def knew_its_commit(self, actor: Actor) -> bool:
        """Whether the actor has committed, or has begun after its request had."""
        moment = self.moments.get(actor.job.id) if actor.job else None
        began = actor.locked_at if actor.locked_at is not None else 0.0
        return actor.committed or (moment is not None and moment < began)

    def _check_schema(self, before: ServingRecord, entry: ServingEntry) -> None:
        by_broadcast = entry.strategy == "broadcast" or entry.act == "undo"
        serving = before.current
        if serving and by_broadcast and serving.schema_fingerprint != entry.schema_fingerprint:
            raise self.world.violated(
                "no schema change by broadcast",
                f"the {entry.act} of epoch {entry.epoch} changes the schema by broadcast",
            )

    def _check_reserved(self, actor: Actor, before: ServingRecord, entry: ServingEntry) -> None:
        reserved = before.reserved
        if reserved is None or (reserved.epoch, reserved.by) != (entry.epoch, entry.by):
            raise self.world.violated(
                "commit what is reserved",
                f"{actor.name} commits epoch {entry.epoch}, which is not reserved",
            )
        if reserved.model != entry.model or reserved.act != entry.act:
            raise self.world.violated(
                "commit what is reserved", "the commit differs from the reservation"
            )
        if entry.by in self.by_request:
            raise self.world.violated("one commit for a request", f"{entry.by} has committed twice")

    def _check_promotion(self, actor: Actor, before: ServingRecord, after: ServingRecord) -> None:
        entry, serving = after.current, before.current
        assert entry is not None
        stack = before.stack
        if serving and not entry.is_same_model(serving):
            stack = (serving, *stack)[:20]
        elif serving and entry.signer != serving.signer:
            pass  # A new epoch is how the entry gets a verdict by another key.
        elif serving and max(pod.state.epoch for pod in self.world.cluster.pods) <= before.epoch:
            raise self.world.violated(
                "what serves is not committed again",
                f"{entry.by} commits version {entry.version}, which serves already",
            )
        if after.stack != stack:
            raise self.world.violated(
                "the stack of a promotion", f"{entry.by} leaves {_stack(after)}"
            )
        self._check_admission(actor, entry, serving)
        self.last_way_back = None

    def _check_admission(
        self, actor: Actor, entry: ServingEntry, serving: ServingEntry | None
    ) -> None:
        kind, job = KINDS[entry.version], actor.job
        assert job is not None
        self._check_credentials(entry)
        if kind.verdict in WRONG:
            raise self.world.violated(
                "no forged verdict",
                f"version {entry.version} was committed, and its verdict is {kind.verdict}",
            )
        if entry.waiver:
            if not job.force or entry.waiver.get("who") != job.id:
                raise self.world.violated(
                    "a waiver belongs to one act",
                    f"{job.id} commits version {entry.version} by a waiver of another act",
                )
        elif kind.verdict != "passed":
            raise self.world.violated(
                "verdict or waiver",
                f"version {entry.version} was committed, and its verdict is: {kind.verdict}",
            )
        elif serving and serving.version in kind.worse_than:
            raise self.world.violated(
                "compare when production has moved",
                f"version {entry.version} was committed and is worse than {serving.version}",
            )
        self.admitted.add(entry.digest)

    def _check_credentials(self, entry: ServingEntry) -> None:
        """Pods verify what they load, so an entry must carry what proves it."""
        if not (entry.signed_verdict or entry.signed_waiver or entry.unsigned):
            raise self.world.violated(
                "entries carry their proof", f"{entry.by} commits an entry without a statement"
            )

    def _check_rollback(self, before: ServingRecord, after: ServingRecord) -> None:
        entry = after.current
        assert entry is not None
        others = [
            number
            for number, kept in enumerate(before.stack)
            if not kept.is_same_model(before.current)
        ]
        if not others:
            raise self.world.violated("never past the top", f"{entry.by} had no way back")
        taken = before.stack[others[0]]
        if not entry.is_same_model(taken) or after.stack != before.stack[others[0] + 1 :]:
            raise self.world.violated(
                "a rollback pops the stack",
                f"{entry.by} went back to version {entry.version} and leaves {_stack(after)}",
            )
        if self.last_way_back is not None and taken.epoch >= self.last_way_back:
            raise self.world.violated(
                "no ping-pong",
                f"{entry.by} goes forward to the entry of epoch {taken.epoch}",
            )
        self._check_credentials(entry)
        if entry.digest not in self.admitted:
            raise self.world.violated(
                "verdict or waiver", f"version {entry.version} was never admitted"
            )
        self.last_way_back = taken.epoch

    def _check_undo(self, actor: Actor, before: ServingRecord, after: ServingRecord) -> None:
        failed, entry, job = before.current, after.current, actor.job
        assert entry is not None
        assert failed is not None
        if failed.act != "promote":
            raise self.world.violated(
                "only promotions are undone",
                f"{actor.name} undoes the {failed.act} of epoch {failed.epoch}",
            )
        if job is None or failed.by != job.id or entry.by != job.id:
            raise self.world.violated(
                "only the own act is undone", f"{actor.name} undoes the act of {failed.by}"
            )
        if job.id in self.checks.reported:
            raise self.world.violated(
                "no undo after an outcome", f"{actor.name} undoes what {job.id} had reported"
            )
        if not entry.is_same_model(before.previous) or after.stack != before.stack[1:]:
            raise self.world.violated(
                "the stack of an undo",
                f"after the undo of {failed.by} version {entry.version} serves, and the way "
                f"back is {_stack(after)}",
            )
        if actor.activated_at > actor.lock_until:
            raise self.world.violated(
                "undo only with the lock", f"{actor.name} undoes without the lock"
            )
        self._check_unreached(actor, failed)
        self.undone.add(job.id)

    def _check_unreached(self, actor: Actor, failed: ServingEntry) -> None:
        unreached = [
            ref.name
            for ref in actor.activated
            if ref.takes_connections and f"{ref.name}/{failed.epoch}" not in actor.confirmed
        ]
        if len(unreached) < 2:
            raise self.world.violated(
                "undo only for pods that clients reach",
                f"{actor.name} undoes for {unreached or 'no pod'} that takes new connections",
            )

    def _check_votes(self, actor: Actor, entry: ServingEntry) -> None:
        """No commit without every pod that has been ready long enough to be asked."""
        now, names = self.world.clock, []
        for pod in self.world.cluster.pods:
            ref = self.world.cluster.ref(pod)
            if pod.gone or not ref.takes_connections:
                continue
            if pod.shown_ready_since > now - SETTLED_SECONDS - actor.delayed:
                continue
            unasked = entry.epoch not in pod.prepared_epochs and pod.lost is None
            if unasked or entry.epoch in pod.refused_epochs:
                names.append(pod.name)
        if names:
            raise self.world.violated(
                "a ready pod has a veto",
                f"{actor.name} commits epoch {entry.epoch} without {', '.join(names)}",
            )
        self._check_patience(actor, entry)
        if self.world.cluster.replicas and not any(
            entry.epoch in pod.prepared_epochs for pod in self.world.cluster.pods
        ):
            raise self.world.violated(
                "no pod is no consent", f"{actor.name} commits epoch {entry.epoch} without a pod"
            )

    def _check_patience(self, actor: Actor, entry: ServingEntry) -> None:
        """Unready pods hold no prepare: the commit follows the last ready pod."""
        voters = [
            pod
            for pod in self.world.cluster.pods
            if self.world.cluster.ref(pod).takes_connections and not pod.gone
        ]
        prepared = [pod.prepared_epochs.get(entry.epoch, 0.0) for pod in voters]
        since = max([actor.reserved_at, self.world.cluster.last_change, *prepared])
        waited = self.world.clock - since - actor.delayed
        if prepared and all(prepared) and waited > PATIENCE_SECONDS:
            raise self.world.violated(
                "unready pods hold no prepare",
                f"{actor.name} commits {waited:.0f} s after the last ready pod has prepared",
            )

    def on_serve(self, pod: SimPod, before: object) -> None:
        target = pod.target
        assert target is not None
        assert isinstance(before, PodState)
        if target.epoch < before.epoch:
            raise self.world.violated(
                "epochs of pods grow",
                f"{pod.name} went from epoch {before.epoch} back to {target.epoch}",
            )
        other = before.digest not in (None, target.digest)
        if target.epoch == before.epoch and other:
            raise self.world.violated(
                "one epoch is one model", f"{pod.name} changes its model in epoch {target.epoch}"
            )
        self._check_committed(pod, target)

    def _check_committed(self, pod: SimPod, target: ServingTarget) -> None:
        reserved = self.world.store.record.reserved
        announced = pod.template == target and pod.template in self._announced()
        if (target.epoch, target.digest) in self.targets or announced:
            return
        raise self.world.violated(
            "only committed models serve",
            f"{pod.name} serves version {target.version} at epoch {target.epoch}, which no act "
            f"committed; reserved is {reserved.target if reserved else 'nothing'}",
        )

    def _announced(self) -> list[ServingTarget]:
        """Return every target that was ever reserved for a rollout."""
        return [
            reserved.target
            for reserved in self.checks.reserved_targets
            if reserved.strategy == "rollout"
        ]


def _stack(record: ServingRecord) -> str:
    names = ", ".join(f"version {entry.version} (epoch {entry.epoch})" for entry in record.stack)
    return f"the stack: {names or 'nothing'}"
