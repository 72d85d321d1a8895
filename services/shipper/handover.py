"""What a leaving pod could not ship goes to another pod, whose shipper brings it to PostgreSQL: an
answered prediction outlives the pod that answered it.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from fraudops.audit.dead_letters import DeadLetters
from fraudops.cluster.peers import peer_urls
from fraudops.errors import StoreDownError
from fraudops.settings import ShipperSettings
from fraudops.spool.segments import adopt, list_segments
from fraudops.state import State

logger = logging.getLogger(__name__)
# One pod that hangs must not use up the grace period of the pod that leaves.
TIMEOUT = httpx.Timeout(5.0, connect=1.0)
PART = 1 << 20


def hand_over_to_peers(settings: ShipperSettings) -> int:
    """To the release's other pods.

    Returns how many segments and files of what was set aside stay here.
    """
    token = settings.admin_token
    urls = peer_urls(settings.cluster, settings.admin_port) if token else []
    return hand_over(
        State.at(settings.state).spool, urls, token.get_secret_value() if token else ""
    )


def hand_over(spool: Path, urls: Sequence[str], token: str) -> int:
    """Gives every segment of the spool, and every file of what was set aside, to the first pod that
    takes it; returns how many stay here.

    A segment that is still written to stays: what came later would be lost with it. One goes
    from here when another pod has it on its disk: killed in between, it is there twice, which
    changes nothing, since a row arrives once by its primary key.
    """
    receivers = list(urls)
    with httpx.Client(
        headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT, trust_env=False
    ) as client:
        return _give_segments(client, receivers, spool) + sum(
            _give_what_was_set_aside(client, receivers, aside) for aside in DeadLetters.all(spool)
        )


def _give_segments(client: httpx.Client, receivers: list[str], spool: Path) -> int:
    """How many stay here."""
    left = 0
    for segment in list_segments(spool):
        path = spool / segment.name
        with _adopted(path) as ours:
            left += not (ours and _give_to_first(client, receivers, path, f"spool/{path.name}"))
    return left


def _give_what_was_set_aside(client: httpx.Client, receivers: list[str], aside: DeadLetters) -> int:
    """As it is: damaged stretches too, and each with the reason and the moment that it was set
    aside for. How many files stay here.
    """
    if not aside.folder.is_dir():
        return 0
    try:
        with aside.for_handover() as paths:
            return sum(
                not _give_to_first(
                    client, receivers, path, f"spool/{aside.folder.name}/{path.name}"
                )
                for path in paths
            )
    except (StoreDownError, OSError) as error:
        logger.error("what was set aside stays with this pod", extra={"reason": str(error)})
        return 1


@contextmanager
def _adopted(path: Path) -> Iterator[bool]:
    """Whether nobody writes to the segment any more; meanwhile nobody else takes it up."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield adopt(descriptor)
    finally:
        os.close(descriptor)


def _give_to_first(client: httpx.Client, receivers: list[str], path: Path, place: str) -> bool:
    """Whether the first of the takers has it on its disk, and it has gone from here.

    Who does not take it is asked no more this time: the pod has not the time to wait again.
    """
    try:
        while receivers and not _give(client, f"{receivers[0]}/{place}", path):
            del receivers[0]
        if receivers:
            path.unlink(missing_ok=True)
            logger.info(
                "a file of the spool was handed over", extra={"file": path.name, "to": receivers[0]}
            )
    except OSError as error:
        logger.error(
            "a file of the spool cannot be handed over",
            extra={"file": path.name, "reason": error.strerror},
        )
        return False
    return bool(receivers)


def _give(client: httpx.Client, url: str, path: Path) -> bool:
    """Whether that pod has it on its disk. Raises OSError when it cannot be read here."""
    headers = {"Content-Length": str(path.stat().st_size)}
    try:
        answer = client.put(url, content=_parts(path), headers=headers)
    except httpx.HTTPError as error:
        logger.warning(
            "a pod does not take a file of the spool",
            extra={"url": url, "reason": type(error).__name__},
        )
        return False
    if answer.status_code >= 300:
        logger.warning(
            "a pod does not take a file of the spool",
            extra={"url": url, "reason": answer.text[:300]},
        )
    return answer.status_code < 300


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART):
            yield part
