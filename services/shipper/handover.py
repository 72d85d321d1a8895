"""What a leaving pod could not ship goes to another pod, whose shipper brings it to PostgreSQL: an answered prediction outlives the pod that answered it."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from fraudops.audit.aside import Aside
from fraudops.errors import FraudopsError
from fraudops.peers import peer_urls
from fraudops.settings import ShipperSettings
from fraudops.spool.segments import Segment, list_segments
from fraudops.state import State

logger = logging.getLogger(__name__)
TIMEOUT = httpx.Timeout(20.0, connect=1.0)
PART = 1 << 20


def hand_over(settings: ShipperSettings) -> int:
    """To the release's other pods. Returns how many segments stay here."""
    token = settings.admin_token
    urls = peer_urls(settings.cluster, settings.admin_port) if token else []
    return give_away(State.at(settings.state).spool, urls, token.get_secret_value() if token else "")


def give_away(spool: Path, urls: Sequence[str], token: str) -> int:
    """Gives every segment of the spool, and what was set aside, to the first pod that takes it; returns how many segments stay here.

    Call it once nobody writes to the spool any more. A segment goes from here when another pod has it on its disk: killed in between, it is there twice,
    which changes nothing, since a row arrives once by its primary key.
    """
    if not urls:
        return len(list_segments(spool))
    _take_back_what_was_set_aside(spool)
    left, urls = 0, list(urls)
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT, trust_env=False) as client:
        for segment in list_segments(spool):
            taker = next((url for url in urls if _give(client, url, spool, segment)), None)
            if taker is None:
                left += 1
                continue
            (spool / segment.name).unlink(missing_ok=True)
            urls = [taker, *(url for url in urls if url != taker)]
            logger.info("a segment of the spool was handed over", extra={"segment": segment.name, "to": taker})
    return left


def _take_back_what_was_set_aside(spool: Path) -> None:
    """PostgreSQL may refuse it again, where the next pod sets it aside: but it does not go with this pod's disk."""
    if not (spool / "aside").is_dir():
        return
    try:
        Aside(spool).replay()
    except (FraudopsError, OSError) as error:
        logger.error("what was set aside stays with this pod", extra={"reason": str(error)})


def _give(client: httpx.Client, url: str, spool: Path, segment: Segment) -> bool:
    """Whether that pod has it on its disk."""
    path = spool / segment.name
    try:
        size = path.stat().st_size
        answer = client.put(f"{url}/spool/{segment.name}", content=_parts(path), headers={"Content-Length": str(size)})
    except (OSError, httpx.HTTPError) as error:
        logger.warning("a pod does not take a segment of the spool", extra={"url": url, "reason": type(error).__name__})
        return False
    if answer.status_code >= 300:
        logger.warning("a pod does not take a segment of the spool", extra={"url": url, "reason": answer.text[:300]})
    return answer.status_code < 300


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART):
            yield part
