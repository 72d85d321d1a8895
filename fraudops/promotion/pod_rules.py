"""What a pod does with a record, an annotation, a prepare and a restart: pure decisions.

The inference service and the simulation run the same code. A pod's state is what it serves.
Its template's target is what a rollout made it for.
"""

from dataclasses import dataclass

import msgspec

from fraudops.errors import RefusedError
from fraudops.extensible import Extensible
from fraudops.promotion.serving_record import ServingRecord, ServingTarget

# The bundles of the last models that a pod served stay in its cache: a rollback needs no download.
KEPT = 3


class PodState(Extensible, frozen=True, kw_only=True):
    """What the pod serves. The pod commits a change when it writes this.

    `served` holds the digests that served before, newest first. Without a digest the pod serves
    nothing, but it never goes below `epoch`. The stored fields are those of release 0.2.0.
    """

    epoch: int = 0
    version: str | None = None
    digest: str | None = None
    source: str | None = None
    served: tuple[str, ...] = ()

    @property
    def target(self) -> ServingTarget | None:
        """What the pod serves, or None when it serves nothing."""
        if self.version is None or self.digest is None:
            return None
        return ServingTarget(self.epoch, self.version, self.digest)

    def is_behind(self, epoch: int) -> bool:
        """Whether the pod has yet to serve the model of this epoch."""
        return epoch > self.epoch or (epoch == self.epoch > 0 and self.digest is None)

    def serving(self, target: ServingTarget, source: str) -> "PodState":
        """Return the state after the pod has begun to serve the target."""
        earlier = [
            digest for digest in (self.digest, *self.served) if digest and digest != target.digest
        ]
        return msgspec.structs.replace(
            self,
            epoch=target.epoch,
            version=target.version,
            digest=target.digest,
            source=source,
            served=tuple(dict.fromkeys(earlier))[:KEPT],
        )

    def without_model(self, served: tuple[str, ...]) -> "PodState":
        """Return the state of a pod that serves nothing, at the same epoch."""
        return msgspec.structs.replace(self, version=None, digest=None, source=None, served=served)


@dataclass(frozen=True)
class Follow:
    """The pod must go to this target."""

    target: ServingTarget


@dataclass(frozen=True)
class Stay:
    """The pod serves what the record names."""


@dataclass(frozen=True)
class Report:
    """The pod cannot follow the record; it serves what it has and says why."""

    reason: str


def destination(record: ServingRecord, template: ServingTarget | None) -> ServingTarget | None:
    """Return where the record sends a pod, or None before the first promotion.

    The pod goes to its template's target only while the record reserves exactly that. Once the
    record has committed or released it, the record alone decides.
    """
    reserved, current = record.reserved, record.current
    if template and reserved and _same_model(reserved.target, template):
        return template
    return current.target if current else None


def _same_model(one: ServingTarget, other: ServingTarget) -> bool:
    return (one.epoch, one.digest) == (other.epoch, other.digest)


def check_step(now: PodState, target: ServingTarget) -> None:
    """Check the one rule of every swap and prepare. Raises RefusedError.

    Epochs never go down, and one epoch is one model.
    """
    if target.epoch < now.epoch:
        raise RefusedError(
            f"epoch {target.epoch} is behind epoch {now.epoch}, which is served already"
        )
    if target.epoch == now.epoch and now.digest is not None and target.digest != now.digest:
        raise RefusedError(f"epoch {now.epoch} is served already, with another model")


def on_record(
    now: PodState, record: ServingRecord, template: ServingTarget | None
) -> Follow | Stay | Report:
    """Decide what a pod does after it has read the record."""
    target = destination(record, template)
    epoch = target.epoch if target else 0
    if epoch < now.epoch:
        return Report(
            f"the serving record went back to epoch {epoch}, this pod stays at {now.epoch}: "
            "promote again, or restore the record"
        )
    if target and now.is_behind(epoch):
        return Follow(target)
    if target and target.digest != now.digest:
        return Report(
            f"the serving record names another model for epoch {epoch} than this pod serves: "
            "promote again"
        )
    return Stay()


def on_activate(
    now: PodState,
    record: ServingRecord,
    template: ServingTarget | None,
    epoch: int = 0,
    version: str | None = None,
    digest: str | None = None,
) -> ServingTarget:
    """Return what the record sends the pod to, after a caller has asked it to follow.

    Raises RefusedError when the record is not yet at `epoch`, names another version or digest
    than the caller expects, names none, or sends the pod back.
    """
    target = destination(record, template)
    if target is None:
        raise RefusedError("no model has been promoted: the serving record is empty")
    if target.epoch < epoch:
        raise RefusedError(f"the serving record is at epoch {target.epoch}, not yet at {epoch}")
    other_model = (version or target.version) != target.version or (
        digest or target.digest
    ) != target.digest
    if other_model and epoch in (0, target.epoch):
        raise RefusedError(
            f"the serving record names version {target.version}: use promote to move to another one"
        )
    check_step(now, target)
    return target


def on_failed_template(now: PodState, record: ServingRecord) -> ServingTarget | None:
    """Return what a new pod of a rollout serves when it cannot load its template's target.

    None when the record's own target is none that the pod has yet to serve.
    """
    current = destination(record, None)
    return current if current and now.is_behind(current.epoch) else None


def on_start(
    before: PodState, record: ServingRecord | None, template: ServingTarget | None
) -> PodState:
    """Return the state that a starting container tries to serve from its cache.

    `before` is what the container's predecessor served, and `record` None an unreadable one. The
    pod keeps what it served when the record cannot be read, went back, or has not moved.
    """
    target = destination(record, template) if record else None
    if target is None or target.epoch < before.epoch:
        return before
    if target.epoch == before.epoch and before.digest:
        return before
    return before.serving(target, "cache")


def has_caught_up(now: PodState, seen_epoch: int, unreadable: bool) -> bool:
    """Whether the pod serves the best that it knows.

    It does when it is at the epoch that it saw in the record. When the record went back or cannot
    be read, what the pod serves is the best there is.
    """
    if now.digest is None:
        return False
    return now.epoch == seen_epoch or (unreadable and now.epoch > seen_epoch)


def may_turn_ready(now: PodState, record: ServingRecord | None) -> bool:
    """Decide by the last look at the record before the pod turns ready.

    A promotion that has committed since the pod's last read did not wait for this pod. A record
    that cannot be read (None) prevents no pod from serving.
    """
    return now.digest is not None and (record is None or now.epoch >= record.epoch)


def keeps_prepared(prepared: ServingTarget, now: PodState) -> bool:
    """Whether a prepared model may still be needed once the pod serves `now`."""
    return prepared.epoch > now.epoch and prepared.digest != now.digest
