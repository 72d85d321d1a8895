"""What happens once, before the first worker: the folders, the proof of the cached bundle, and the pod's state from the serving record."""

import fcntl
import logging
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.record import EMPTY, target_of
from fraudops.settings import InferenceSettings
from fraudops.spool.segments import INCOMING
from fraudops.state import State
from services.inference.bundles import PROVED, command, proof_path, read_outcome
from services.inference.pod_files import PodState, RecordView, pod_state_path, read_pod_state, record_view_path, write
from services.inference.records import record_reader, template_target

logger = logging.getLogger(__name__)
LOCK_SECONDS = 3.0
PROOF_SECONDS = 60.0


@dataclass(frozen=True)
class Proof:
    """A running check of the bundle that this pod is to serve."""

    target: PodState
    process: "subprocess.Popen[bytes]"


def make_folders(state: State) -> int:
    """Makes what the service writes to, clears what an earlier run has left, and returns the descriptor that holds the state folder's lock.

    Raises StoreDownError when another service works on this folder, or the disk refuses.
    """
    try:
        for folder in (state.root, state.run, state.bundles, state.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _lock(state.run / "service.lock")
        shutil.rmtree(state.metrics, ignore_errors=True)
        state.metrics.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise StoreDownError(f"{error.filename} cannot be written ({error.strerror}): check the disk, or give another FRAUDOPS_STATE") from error
    for left in (*state.run.glob("worker-*.sock"), *state.run.glob(f"{PROVED}*"), *state.spool.glob(f"{INCOMING}*")):
        left.unlink(missing_ok=True)
    return descriptor


def begin(settings: InferenceSettings, state: State) -> Proof | None:
    """Has the bundle of what the record names proved in a process of its own, if it is in the cache; else the poller brings it."""
    write(record_view_path(state), RecordView())
    before = read_pod_state(state)
    target = _target(settings, before)
    if target.digest is None or not (state.bundles / target.digest).is_dir():
        write(pod_state_path(state), PodState(epoch=before.epoch, served=before.served))
        return None
    return Proof(target, subprocess.Popen(command(state.bundles, target.version or "", target.digest, "--cached"), stdout=subprocess.PIPE))


def conclude(state: State, proof: Proof) -> None:
    """Writes the pod's state: what was proved, or nothing and why."""
    try:
        output, _ = proof.process.communicate(timeout=PROOF_SECONDS)
        read_outcome(output)
    except (FraudopsError, subprocess.TimeoutExpired) as error:
        proof.process.kill()
        reason = str(error) if isinstance(error, FraudopsError) else f"the cached bundle was not proved within {PROOF_SECONDS:g} s"
        logger.error("the cached bundle is not served", extra={"reason": reason})
        write(pod_state_path(state), PodState(epoch=read_pod_state(state).epoch, served=proof.target.served))
        write(record_view_path(state), RecordView(epoch=proof.target.epoch, version=proof.target.version, refused=reason))
    else:
        write(pod_state_path(state), proof.target)
        proof_path(state.run, proof.target.digest or "").touch()


def _target(settings: InferenceSettings, before: PodState) -> PodState:
    """What the record sends this pod to. What the pod served last, if the record cannot be read, went back, or has not moved: one epoch is one model."""
    try:
        record = record_reader(settings)()
    except (FraudopsError, OSError) as error:
        logger.error("the serving record cannot be read", extra={"reason": str(error)})
        record = EMPTY
    entry = target_of(record, template_target(settings))
    if entry is None or entry.epoch < before.epoch or (entry.epoch == before.epoch and before.digest):
        return before
    return before.next(entry.epoch, entry.version, entry.digest, "cache")


def _lock(path: Path) -> int:
    """Workers of a service that was killed hold it until they have gone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise StoreDownError(f"another inference service works on {path.parent.parent}: stop it, or give this one its own FRAUDOPS_STATE") from error
            time.sleep(0.05)
        else:
            return descriptor
