"""Steps before the first worker starts, done once for each pod.

They verify the cached bundle and write the pod's state from the serving record.
"""

import asyncio
import logging
import time

from fraudops.errors import FraudopsError
from fraudops.promotion.serving_record import EMPTY, target_of
from fraudops.settings import InferenceSettings
from fraudops.state import State
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.bundle_verifier import BundleVerifier
from services.inference.pod.record_reader import record_reader, template_target
from services.inference.pod.state import (
    PodState,
    RecordView,
    pod_state_path,
    read_pod_state,
    record_view_path,
    write,
)

logger = logging.getLogger(__name__)
VERIFICATION_SECONDS = 60.0
LOOK_SECONDS = 0.1


def settle(
    settings: InferenceSettings, state: State, cache: BundleCache, verifier: BundleVerifier
) -> None:
    """Write the pod's state, if the recorded model's bundle is cached and verified now.

    Otherwise write nothing; the poller fetches the bundle later.
    """
    write(record_view_path(state), RecordView())
    before = read_pod_state(state)
    target = _target(settings, before)
    if target.digest is None or not (state.bundles / target.digest).is_dir():
        write(pod_state_path(state), before.without_model(before.served))
        return
    try:
        _prove(cache, target.version or "", target.digest, verifier)
    except FraudopsError as error:
        logger.error("the cached bundle is not served", extra={"reason": str(error)})
        write(pod_state_path(state), before.without_model(target.served))
        write(
            record_view_path(state),
            RecordView(epoch=target.epoch, version=target.version, refused=str(error)),
        )
    else:
        write(pod_state_path(state), target)


def _prove(cache: BundleCache, version: str, digest: str, verifier: BundleVerifier) -> None:
    """Proves a cached bundle, and replaces a prover that dies before it answers.

    Raises RefusedError or StoreDownError.
    """
    deadline = time.monotonic() + VERIFICATION_SECONDS
    # gunicorn's arbiter replaces the prover later, but it does not run yet. The fork happens
    # between two event loops, so that the new prover inherits no connection of the asker.
    while not asyncio.run(_answered(cache, version, digest, verifier, deadline)):
        verifier.keep()


async def _answered(
    cache: BundleCache, version: str, digest: str, verifier: BundleVerifier, deadline: float
) -> bool:
    """Whether the prover lived until the answer; a refusal raises."""
    seconds = deadline - time.monotonic()
    asking = asyncio.ensure_future(cache.ensure(version, digest, seconds, fetch=False))
    while not (await asyncio.wait({asking}, timeout=LOOK_SECONDS))[0]:
        # The master holds the listener too: without a prover the request waits and fails nowhere.
        if not verifier.lives():
            asking.cancel()
            return False
    await asking
    return True


def _target(settings: InferenceSettings, before: PodState) -> PodState:
    """What the record sends this pod to.

    What the pod served last, if the record cannot be read, went back, or has not moved: one
    epoch is one model.
    """
    try:
        record = record_reader(settings)()
    except (FraudopsError, OSError) as error:
        logger.error("the serving record cannot be read", extra={"reason": str(error)})
        record = EMPTY
    entry = target_of(record, template_target(settings))
    if (
        entry is None
        or entry.epoch < before.epoch
        or (entry.epoch == before.epoch and before.digest)
    ):
        return before
    return before.next(entry.epoch, entry.version, entry.digest, "cache")
