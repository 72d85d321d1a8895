"""The predictions and labels of a spool that the table may not have yet."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from fraudops.audit.dead_letters import DeadLetters
from fraudops.audit.prediction_ids import id_bytes
from fraudops.audit.records import LabelRecord, Prediction, decode
from fraudops.spool.inspection import unshipped_payloads
from fraudops.spool.segments import ASIDE, NEWER
from fraudops.state import State


class WaitingRecord(NamedTuple):
    """A record, and its folder in the spool, such as ASIDE; None if it waits for the shipper."""

    record: Prediction | LabelRecord
    folder: str | None


def waiting_records(state: State) -> Iterator[WaitingRecord]:
    """Yield the records of the spool and of its dead letters; only reads.

    A record may appear more than once. Raises DataError, OSError.
    """
    # The dead letters before and after the spool: a replay moves them into the spool, and the
    # shipper moves records of the spool to them.
    for folder in (ASIDE, NEWER):
        yield from _records(_letters(state, folder), folder)
    yield from _records(unshipped_payloads(state.spool), None)
    yield from _records(_letters(state, ASIDE), ASIDE)


def _letters(state: State, folder: str) -> Iterator[bytes]:
    return (entry.data for entry in DeadLetters(state.spool, folder).entries())


def _records(payloads: Iterable[bytes], folder: str | None) -> Iterator[WaitingRecord]:
    for payload in payloads:
        try:
            record = decode(payload)
            if isinstance(record, Prediction):
                id_bytes(record.id)
        except (msgspec.MsgspecError, ValueError):
            continue
        if isinstance(record, Prediction | LabelRecord):
            yield WaitingRecord(record, folder)
