"""Predictions that a worker appends to the spool while a test changes the database."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fraudops.audit.records import encode
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.state import State
from tests.support.audit_records import prediction
from tests.support.shippers import ids
from tests.support.waiting import eventually


@contextmanager
def load(state: State) -> Iterator[list[str]]:
    """Append predictions to the spool during the block, and yield their ids."""
    appended, ended = list[str](), threading.Event()

    def append() -> None:
        writer = SpoolWriter(state.spool, "worker-1", SpoolOptions())
        while not ended.wait(0.005):
            record = prediction()
            writer.append(encode(record))
            appended.append(record.id)
        writer.close()

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield appended
    finally:
        ended.set()
        thread.join()


def grows(url: str, count: int = 20) -> None:
    """Wait until the table has `count` more rows."""
    goal = len(ids(url)) + count

    def grown() -> None:
        assert len(ids(url)) >= goal

    eventually(grown)
