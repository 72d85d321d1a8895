"""Charge the rows of a request to the rate of its client."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.inference.http.context import ServiceContext
from services.inference.http.messages import HttpRequest
from services.inference.reading.row_count import RowCount


@contextmanager
def charged_rows(context: ServiceContext, request: HttpRequest) -> Iterator[RowCount]:
    """Count the rows that are read within the block towards the client's rate.

    A request that is refused costs the service as much as one that is answered.
    """
    count = RowCount()
    try:
        yield count
    finally:
        # The request itself has cost one already.
        if request.client and count.rows > 1:
            context.clients.charge(request.client, count.rows - 1)
