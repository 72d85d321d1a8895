"""What a scenario begins with: a cluster, and a record of this release or of release 0.2.0."""

import json
from typing import Any

from fraudops.promotion.attempt import Attempt
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import (
    FORMAT,
    ModelRef,
    ServingEntry,
    ServingRecord,
    ServingTarget,
    encode,
)
from tests.support.signing import SIGNERS, passing
from tests.support.simulation.registry import KINDS, digest_of
from tests.support.simulation.world import SimulatedWorld

RESTORED_EPOCH = 7
FOUNDINGS = ("new", "new", "new", "0.2.0", "0.2.0 undo", "0.2.0 rollback", "restored", "empty")


def model_of(version: str) -> ModelRef:
    return ModelRef(
        version=version,
        digest=digest_of(version),
        schema_fingerprint=KINDS[version].schema,
        verdict={"passed": True, "signer": SIGNERS.verdict.public.id},
        signed_verdict=passing(version, digest_of(version)),
    )


def entry_of(version: str, epoch: int, **fields: Any) -> ServingEntry:
    by = f"founder-{epoch}"
    place = {"epoch": epoch, "by": by, "at": "", "act": "promote"} | fields
    return ServingEntry(**model_of(version).model_fields(), **place)


def found(world: SimulatedWorld) -> None:
    """Create the first record and the first pods of the seed."""
    choices = world.choices
    how = choices.pick(FOUNDINGS, "founding")
    world.note(f"the record is {how}")
    if how != "empty":
        _found_record(world, how)
    world.cluster.replicas = 1 + sum(
        choices.happens("one pod more", f"founding {number}", 0.6) for number in range(4)
    )
    current = world.store.record.current
    for _ in range(world.cluster.replicas):
        pod = world.cluster.create()
        pod.slow = choices.pick((0.0, 0.0, 0.5, 6.0), "slow", pod.name)
        refuses = choices.happens("refuses version 3", pod.name, 0.06)
        pod.refuses = frozenset({digest_of("3")}) if refuses else frozenset()
        if current:
            target = current.target
            if how == "restored":
                target = ServingTarget(RESTORED_EPOCH, "2", digest_of("2"))
            run(world, pod.name, target)
        else:
            world.spawn(world.cluster.live(pod))


def run(world: SimulatedWorld, name: str, target: ServingTarget) -> None:
    """Let the pod serve the target, ready and with clients."""
    pod = world.cluster.find(name)
    pod.state = PodState().serving(target, "cache")
    pod.cache = {target.digest, digest_of("1"), digest_of("2")}
    pod.up = pod.ready = pod.shown_ready = pod.shown_running = pod.has_clients = True
    pod.awaited = target
    pod.born = pod.shown_ready_since = -100.0
    world.spawn(world.cluster.live(pod, running=True))


def _found_record(world: SimulatedWorld, how: str) -> None:
    older, entry = entry_of("2", 1), entry_of("1", 2)
    record = ServingRecord(current=entry, previous=older, stack=(older,), alias_epoch=2)
    data = encode(record)
    if how.startswith("0.2.0"):
        data = record_of_0_2_0(world, how)
    world.store.start_from(data)
    record = world.store.record
    world.checks.commits.founded(record)
    world.checks.commits.targets.add((RESTORED_EPOCH, digest_of("2")))
    assert record.current is not None
    world.registry.aliases["production"] = record.current.version
    if record.stack:
        world.registry.aliases["champion"] = record.stack[0].version


def record_of_0_2_0(world: SimulatedWorld, how: str) -> bytes:
    """Return a record as release 0.2.0 writes it: without a format, acts and rows."""
    older, entry = _old_entry("2", 1), _old_entry("1", 2)
    document: dict[str, Any] = {
        "current": entry,
        "previous": older,
        "stack": [older],
        "mirrored": 2,
        "highest_reserved": 2,
        "requests": [{"id": "founder-2", "epoch": 2}],
    }
    if how == "0.2.0 undo":
        # Version 3 failed as epoch 3, and the undo of 0.2.0 has restored version 1.
        document["current"] = entry | {"epoch": 4, "undo": True, "by": "founder-3"}
        document |= {"previous": older, "mirrored": 4, "highest_reserved": 3}
    elif how == "0.2.0 rollback":
        # Its rollback popped version 1, and `previous` is what it replaced.
        document["current"] = entry | {"epoch": 4, "by": "founder-4"}
        document |= {"previous": _old_entry("3", 3), "mirrored": 3, "highest_reserved": 4}
    # The promoter of the last act died before it wrote its row.
    request = document["current"]["by"]
    world.store.rows[request] = Attempt(request=request, requested_by="user", at="")
    world.checks.old_request = None if "undo" in how else request
    assert FORMAT > 1
    return json.dumps(document).encode()


def _old_entry(version: str, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "version": version,
        "digest": digest_of(version),
        "schema_fingerprint": KINDS[version].schema,
        "by": f"founder-{epoch}",
        "at": "",
        "verdict": {"passed": True},
    }
