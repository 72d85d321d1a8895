"""Handover: a pod that shuts down sends its unshipped files to other pods.

The shipper of the receiving pod ships them. So the record of an answered prediction survives the
pod that answered it.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from fraudops.audit.dead_letter_files import sent_name
from fraudops.audit.dead_letters import DeadLetters
from fraudops.cluster.peers import peer_urls
from fraudops.errors import StoreDownError
from fraudops.settings import ShipperSettings
from fraudops.spool.segments import adopt, list_segments
from fraudops.state import State

logger = logging.getLogger(__name__)
# A receiver that hangs must not use up the grace period of this pod.
TIMEOUT = httpx.Timeout(5.0, connect=1.0)
PART_BYTES = 1 << 20


def hand_over_to_peers(settings: ShipperSettings) -> int:
    """Hand the spool over to the other pods of the release.

    Returns how many segments and dead-letter files stay here.
    """
    token = settings.admin_token
    urls = peer_urls(settings.cluster, settings.admin_port) if token else []
    return hand_over(
        State.at(settings.state).spool, urls, token.get_secret_value() if token else ""
    )


def hand_over(spool: Path, urls: Sequence[str], token: str) -> int:
    """Send each segment and dead-letter file to the first pod that accepts it.

    Returns how many stay here. A segment that is still being written stays. Another file is
    deleted only after the receiver has synced it to its disk. A crash in between leaves two
    copies. That is harmless, because rows are deduplicated by their primary key.
    """
    receivers = list(urls)
    with httpx.Client(
        headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT, trust_env=False
    ) as client:
        return _give_segments(client, receivers, spool) + sum(
            _give_dead_letters(client, receivers, letters) for letters in DeadLetters.all(spool)
        )


def _give_segments(client: httpx.Client, receivers: list[str], spool: Path) -> int:
    """Hand over the finished segments; return how many segments stay here."""
    left = 0
    for segment in list_segments(spool):
        path = spool / segment.name
        # A segment that has a live writer may still grow; records added later would be lost.
        with _adopted(path) as finished:
            left += not (finished and _give_to_first(client, receivers, path, f"spool/{path.name}"))
    return left


def _give_dead_letters(client: httpx.Client, receivers: list[str], letters: DeadLetters) -> int:
    """Hand over the files of one dead-letter folder unchanged; return how many stay here."""
    if not letters.folder.is_dir():
        return 0
    try:
        with letters.for_handover() as paths:
            return sum(
                not _give_to_first(
                    client, receivers, path, f"spool/{letters.folder.name}/{sent_name(path.name)}"
                )
                for path in paths
            )
    except (StoreDownError, OSError) as error:
        logger.error(
            "the dead letters cannot be handed over and stay with this pod",
            extra={"folder": letters.folder.name, "reason": str(error)},
        )
        return 1


@contextmanager
def _adopted(path: Path) -> Iterator[bool]:
    """Yield True if the segment's writer has ended; the lock on the segment is held until then."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield adopt(descriptor)
    finally:
        os.close(descriptor)


def _give_to_first(client: httpx.Client, receivers: list[str], path: Path, place: str) -> bool:
    """Send the file to the first receiver that accepts it, and delete it here.

    Returns False if the file stays. A receiver that refuses is removed from `receivers`: the
    grace period is too short to wait for it again.
    """
    try:
        while receivers and not _give(client, f"{receivers[0]}/{place}", path):
            del receivers[0]
        if receivers:
            path.unlink(missing_ok=True)
            logger.info(
                "handed a file of the spool over", extra={"file": path.name, "to": receivers[0]}
            )
    except OSError as error:
        logger.error(
            "a file of the spool cannot be handed over",
            extra={"file": path.name, "reason": error.strerror},
        )
        return False
    return bool(receivers)


def _give(client: httpx.Client, url: str, path: Path) -> bool:
    """Send the file; return True if the receiver has synced it to its disk.

    Raises OSError if the file cannot be read.
    """
    headers = {"Content-Length": str(path.stat().st_size)}
    try:
        response = client.put(url, content=_parts(path), headers=headers)
        reason = None if response.status_code < 300 else response.text[:300]
    except httpx.HTTPError as error:
        reason = type(error).__name__
    if reason is None:
        return True
    logger.warning("a pod did not accept a file of the spool", extra={"url": url, "reason": reason})
    return False


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part
