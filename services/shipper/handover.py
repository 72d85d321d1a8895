"""What a leaving pod could not ship goes to another pod, whose shipper brings it to PostgreSQL: an answered prediction outlives the pod that answered it."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from fraudops.audit.aside import Aside
from fraudops.errors import FraudopsError, SpoolFullError
from fraudops.peers import peer_urls
from fraudops.settings import ShipperSettings
from fraudops.spool.segments import adopt, list_segments
from fraudops.state import State

logger = logging.getLogger(__name__)
# One pod that hangs must not use up the grace period of the pod that leaves.
TIMEOUT = httpx.Timeout(5.0, connect=1.0)
PART = 1 << 20


def hand_over(settings: ShipperSettings) -> int:
    """To the release's other pods. Returns how many segments stay here."""
    token = settings.admin_token
    urls = peer_urls(settings.cluster, settings.admin_port) if token else []
    return give_away(State.at(settings.state).spool, urls, token.get_secret_value() if token else "")


def give_away(spool: Path, urls: Sequence[str], token: str) -> int:
    """Gives every segment of the spool, and what was set aside, to the first pod that takes it; returns how many segments stay here.

    A segment that is still written to stays: what came later would be lost with it. One goes from here when another pod has it on its disk: killed in
    between, it is there twice, which changes nothing, since a row arrives once by its primary key.
    """
    takers = list(urls)
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT, trust_env=False) as client:
        left = _give_segments(client, takers, spool)
        # Only now, for what is set aside comes back through the spool, which may have been full.
        if takers and (spool / "aside").is_dir():
            full = _take_back_what_was_set_aside(spool)
            left = _give_segments(client, takers, spool) + full
    return left


def _give_segments(client: httpx.Client, takers: list[str], spool: Path) -> int:
    """How many stay here."""
    left = 0
    for segment in list_segments(spool):
        path = spool / segment.name
        with _adopted(path) as ours:
            if ours and _give_to_first(client, takers, path):
                path.unlink(missing_ok=True)
                logger.info("a segment of the spool was handed over", extra={"segment": segment.name, "to": takers[0]})
            else:
                left += 1
    return left


@contextmanager
def _adopted(path: Path) -> Iterator[bool]:
    """Whether nobody writes to the segment any more; meanwhile nobody else takes it up."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield adopt(descriptor)
    finally:
        os.close(descriptor)


def _take_back_what_was_set_aside(spool: Path) -> bool:
    """PostgreSQL may refuse it again, where the next pod sets it aside: but it does not go with this pod's disk. True if the spool was full before its end."""
    try:
        Aside(spool).replay()
    except SpoolFullError:
        return True
    except (FraudopsError, OSError) as error:
        logger.error("what was set aside stays with this pod", extra={"reason": str(error)})
    return False


def _give_to_first(client: httpx.Client, takers: list[str], path: Path) -> bool:
    """Whether the first of the takers has it on its disk. Who does not take it is asked no more this time: the pod has not the time to wait again."""
    try:
        while takers and not _give(client, takers[0], path):
            del takers[0]
    except OSError as error:
        logger.error("a segment of the spool cannot be read", extra={"segment": path.name, "reason": error.strerror})
        return False
    return bool(takers)


def _give(client: httpx.Client, url: str, path: Path) -> bool:
    """Whether that pod has it on its disk. Raises OSError when it cannot be read here."""
    headers = {"Content-Length": str(path.stat().st_size)}
    try:
        answer = client.put(f"{url}/spool/{path.name}", content=_parts(path), headers=headers)
    except httpx.HTTPError as error:
        logger.warning("a pod does not take a segment of the spool", extra={"url": url, "reason": type(error).__name__})
        return False
    if answer.status_code >= 300:
        logger.warning("a pod does not take a segment of the spool", extra={"url": url, "reason": answer.text[:300]})
    return answer.status_code < 300


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART):
            yield part
