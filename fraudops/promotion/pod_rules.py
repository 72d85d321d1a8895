"""Pure decisions of a pod: about the record, its annotation, a prepare, and a restart.

The inference service and the simulation run the same code. A pod's state is what it serves. Its
template's target is the version that the annotation named when a rollout created the pod.
"""

from dataclasses import dataclass

import msgspec

from fraudops.errors import RefusedError, StoreDownError
from fraudops.extensible import Extensible
from fraudops.promotion.serving_record import ServingRecord, ServingTarget
from fraudops.signing.credentials import Credentials

# The bundles of the last models that a pod served stay in its cache: a rollback needs no download.
KEPT = 3
# A caller that expects no target takes what the record names. A zero or an empty text expects
# nothing, so a promoter may name only an epoch.
ANY = ServingTarget(0, "", "")


class PodState(Extensible, frozen=True, kw_only=True):
    """What the pod serves. The pod commits a change when it writes this.

    `served` holds the digests that served before, newest first. Without a digest the pod serves
    nothing, but it never goes below `epoch`. `restarted` means that an earlier container of the
    pod served. The other stored fields are those of release 0.2.0.
    """

    epoch: int = 0
    version: str | None = None
    digest: str | None = None
    source: str | None = None
    served: tuple[str, ...] = ()
    restarted: bool = False

    @property
    def target(self) -> ServingTarget | None:
        """What the pod serves, or None when it serves nothing."""
        if self.version is None or self.digest is None:
            return None
        return ServingTarget(self.epoch, self.version, self.digest)

    def is_behind(self, epoch: int) -> bool:
        """Whether the pod has yet to serve the model of this epoch."""
        return epoch > self.epoch or (epoch == self.epoch > 0 and self.target is None)

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
            served=tuple(earlier[:KEPT]),
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

    The pod goes to its template's target only while the record reserves exactly that for a
    rollout. Once the record has committed or released it, the record alone decides.
    """
    reserved, current = record.reserved, record.current
    if reserved and reserved.strategy == "rollout" and reserved.target == template:
        return template
    return current.target if current else None


def offered_credentials(record: ServingRecord, target: ServingTarget) -> tuple[Credentials, ...]:
    """Return what the record holds to show that the target may serve, signed statements first.

    An old promoter's reservation may lack what an entry of the same model has.
    """
    holders = (record.reserved, record.current, record.previous, *record.stack)
    offered: list[Credentials] = []
    for ref in holders:
        # Another version may have the same bundle. Its verdict does not count for this one.
        if ref is None or (ref.version, ref.digest) != (target.version, target.digest):
            continue
        if ref.credentials != Credentials() and ref.credentials not in offered:
            offered.append(ref.credentials)
    return tuple(sorted(offered, key=lambda credentials: credentials.unsigned))


def check_step(now: PodState, target: ServingTarget) -> None:
    """Check the one rule of every swap and prepare. Raises RefusedError.

    Epochs never go down, and one epoch is one model.
    """
    if target.epoch < now.epoch:
        raise RefusedError(
            f"epoch {target.epoch} is behind epoch {now.epoch}, which is served already"
        )
    if target.epoch == now.epoch and now.target not in (None, target):
        raise RefusedError(f"epoch {now.epoch} is served already, with another model")


def check_prepare(now: PodState, target: ServingTarget) -> None:
    """Check a request to prepare. Raises RefusedError.

    A user may prepare a model without an epoch; nothing can be checked then.
    """
    if target.epoch:
        check_step(now, target)


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
    if target != now.target:
        return Report(
            f"the serving record names another model for epoch {epoch} than this pod serves: "
            "promote again"
        )
    return Stay()


def on_activate(
    now: PodState,
    record: ServingRecord,
    template: ServingTarget | None,
    expected: ServingTarget = ANY,
) -> ServingTarget:
    """Return what the record sends the pod to, after a caller has asked the pod to activate.

    Raises StoreDownError when the record is not yet at the expected epoch: the pod has read it too
    early, and the same call may succeed later. Raises RefusedError when the record names another
    model than the caller expects, names none, or sends the pod back.
    """
    target = destination(record, template)
    epoch = target.epoch if target else 0
    if epoch < expected.epoch:
        raise StoreDownError(
            f"the serving record is at epoch {epoch}, not yet at {expected.epoch}: try again"
        )
    if target is None:
        raise RefusedError("no model has been promoted: the serving record is empty")
    # A record that has moved on past the expected epoch overtakes the caller's model too.
    if expected.epoch in (0, epoch) and not _is_expected(target, expected):
        raise RefusedError(
            f"the serving record names version {target.version}: use promote to move to another one"
        )
    check_step(now, target)
    return target


def _is_expected(target: ServingTarget, expected: ServingTarget) -> bool:
    versions, digests = ("", target.version), ("", target.digest)
    return expected.version in versions and expected.digest in digests


def on_failed_template(now: PodState, record: ServingRecord) -> ServingTarget | None:
    """Return what a new pod of a rollout serves when it cannot load its template's target.

    It is the record's current entry. None if the record has none, or the pod has reached it.
    """
    current = destination(record, None)
    return current if current and now.is_behind(current.epoch) else None


def on_start(
    before: PodState, record: ServingRecord | None, template: ServingTarget | None
) -> PodState:
    """Return the state that a starting container tries to serve from its cache.

    `before` is what the pod's earlier container served. `record` is None if it cannot be read. The
    pod keeps what it served when the record cannot be read, went back, or has not changed.
    """
    if before.target:
        before = msgspec.structs.replace(before, restarted=True)
    target = destination(record, template) if record else None
    if target is None or not before.is_behind(target.epoch):
        return before
    return before.serving(target, "cache")


def awaited_target(
    now: PodState, record: ServingRecord, template: ServingTarget | None
) -> ServingTarget | None:
    """Return the target that the pod must reach to be caught up.

    A new pod of a rollout that serves the record's current entry is ready, although it does not
    serve its template's target.
    """
    own = destination(record, None)
    return own if own and own == now.target else destination(record, template)


def has_caught_up(now: PodState, awaited: ServingTarget | None) -> bool:
    """Whether the pod serves the best that it knows.

    A pod whose record went back or cannot be read is ahead of what it awaits.
    """
    return now.target is not None and (awaited is None or now.epoch >= awaited.epoch)


def is_ready_without_model(
    now: PodState, awaited: ServingTarget | None, record: ServingRecord | None
) -> bool:
    """Whether a pod that serves no model may be ready.

    That is so before the first promotion, when no other pod serves either. `record` is None if it
    does not exist or cannot be read: other pods may then serve what it named. A new pod of a
    rollout waits for its template's target, also before the first commit.
    """
    if record is None or record.has_named_a_model:
        return False
    return now.target is None and now.epoch == 0 and awaited is None


def may_turn_ready(now: PodState, record: ServingRecord | None) -> bool:
    """Decide by the last look at the record before the pod turns ready.

    A promotion that has committed since the pod's last read did not wait for this pod. A record
    that cannot be read (None) prevents no restarted container from serving: a promotion waits for
    its pod. No promotion waits for a pod that is new.
    """
    if record is None:
        return now.target is not None and now.restarted
    return now.target is not None and now.epoch >= record.epoch


def keeps_prepared(prepared: ServingTarget, now: PodState) -> bool:
    """Whether a prepared model may still be needed once the pod serves `now`."""
    return prepared.epoch > now.epoch and prepared.digest != now.digest


def replaces_prepared(asked: ServingTarget, prepared: ServingTarget) -> bool:
    """Whether a request to prepare or drop the same bundle applies to a prepared model.

    A late message of an earlier promotion must not end what a later one has prepared. A request
    without an epoch comes from a user, and applies.
    """
    return asked.epoch == 0 or asked.epoch >= prepared.epoch
