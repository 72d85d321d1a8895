"""Steps before the first worker starts, done once for each pod.

They verify the cached bundle and write the pod's state from the serving record.
"""

import asyncio
import logging
import time

from fraudops.errors import FraudopsError
from fraudops.promotion.pod_rules import PodState, offered_credentials, on_start
from fraudops.promotion.serving_record import EMPTY, ServingRecord, ServingTarget
from fraudops.settings import InferenceSettings
from fraudops.signing.credentials import Credentials
from fraudops.state import State
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.bundle_verifier import BundleVerifier
from services.inference.pod.record_reader import record_reader, template_target
from services.inference.pod.state import (
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

    Otherwise write that the pod serves nothing; the poller fetches the bundle later.
    """
    write(record_view_path(state), RecordView())
    before = read_pod_state(state)
    record = _record(settings)
    planned = on_start(before, record, template_target(settings))
    write(pod_state_path(state), _verified(state, cache, verifier, before, planned, record))


def _verified(
    state: State,
    cache: BundleCache,
    verifier: BundleVerifier,
    before: PodState,
    planned: PodState,
    record: ServingRecord | None,
) -> PodState:
    """Return the planned state, or one without a model if the bundle is missing or refused."""
    target = planned.target
    if target is None or not (state.bundles / target.digest).is_dir():
        return before.without_model(before.served)
    offered = offered_credentials(record, target) if record else None
    try:
        _verify(cache, target, offered, verifier)
    except FraudopsError as error:
        logger.error("the cached bundle is not served", extra={"reason": str(error)})
        write(record_view_path(state), RecordView(target=target, refused=str(error)))
        return before.without_model(planned.served)
    return planned


def _verify(
    cache: BundleCache,
    target: ServingTarget,
    offered: tuple[Credentials, ...] | None,
    verifier: BundleVerifier,
) -> None:
    """Verify a cached bundle, and replace a verifier that dies before it answers.

    `offered` are the record's credentials, and None if it could not be read.
    Raises RefusedError or StoreDownError.
    """
    deadline = time.monotonic() + VERIFICATION_SECONDS
    # gunicorn's arbiter replaces the verifier later, but it does not run yet. The fork happens
    # between two event loops, so that the new verifier inherits no connection of the client.
    while not asyncio.run(_answered(cache, target, offered, verifier, deadline)):
        verifier.keep()


async def _answered(
    cache: BundleCache,
    target: ServingTarget,
    offered: tuple[Credentials, ...] | None,
    verifier: BundleVerifier,
    deadline: float,
) -> bool:
    """Return whether the verifier lived until its answer. Raises a refusal."""
    seconds = deadline - time.monotonic()
    asking = asyncio.ensure_future(cache.ensure(target, seconds, credentials=offered, fetch=False))
    while not (await asyncio.wait({asking}, timeout=LOOK_SECONDS))[0]:
        # The master holds the listener too. Without a verifier the request waits and never fails.
        if not verifier.is_alive():
            # `asyncio.run` cancels the request.
            return False
    await asking
    return True


def _record(settings: InferenceSettings) -> ServingRecord | None:
    """Return the serving record, or None if it cannot be read now."""
    try:
        return record_reader(settings)() or EMPTY
    except (FraudopsError, OSError) as error:
        logger.error("the serving record cannot be read", extra={"reason": str(error)})
        return None
