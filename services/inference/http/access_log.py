"""The access log: one JSON line for each answer, if it is switched on.

A line has no path, query, address, header or body, because they may hold card data. A request id
that may hold a card number is replaced by its hash.
"""

import logging

from fraudops.card_numbers import loggable_id
from services.inference.http.request_headers import trace_id

logger = logging.getLogger("services.inference.access")


class AccessLog:
    """The access log of one worker."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def write(
        self,
        method: str,
        endpoint: str,
        status: int,
        seconds: float,
        size: int,
        request_id: str,
        client: str | None,
        traceparent: bytes | None,
    ) -> None:
        """Write a line; call it only if the log is enabled.

        `endpoint` is a metric label, `seconds` the time from the last byte of the body to the
        answer, and `size` the bytes of the answer's body.
        """
        line = {
            "method": method,
            "endpoint": endpoint,
            "status": status,
            "seconds": round(seconds, 6),
            "bytes": size,
            "request_id": loggable_id(request_id),
        }
        if client:
            line["client"] = client
        if trace := trace_id(traceparent):
            line["trace_id"] = trace
        logger.info("answered", extra=line)
