"""Reconciliation of the spool, the table and a client's answer log, by ids and counts.

Everything here only reads. Rows move only from the spool to the table or to the dead letters.
Reading the spool first and the table last therefore misses none. Apparent losses are checked a
second time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import numpy as np

from fraudops.audit.dead_letters import DeadLetters
from fraudops.audit.partitions import partitions
from fraudops.audit.prediction_ids import (
    Ids,
    element_bytes,
    id_array,
    id_bytes,
    timestamps,
    without,
)
from fraudops.audit.records import Prediction, Record, RefusalCount, decode, is_newer_kind
from fraudops.spool.inspection import unshipped_payloads
from fraudops.spool.segments import NEWER
from fraudops.state import State

# Called with the share that is done, from 0 to 1.
Progress = Callable[[float], None]
CHUNK = 10_000
# The primary key is (id, timestamp), and the timestamp is derived from the id. So an id can occur
# twice only under a wrong timestamp.
OWN_TIMESTAMP = (
    """to_timestamp(('x' || left(replace({id}::text, '-', ''), 12))::bit(48)::bigint / 1000.0)"""
)
# The range of ids ($2, $3) bounds the scan of the primary key's index in each partition. The range
# of timestamps ($4, $5) lets the planner skip partitions.
ABSENT = f"""
SELECT array_agg(asked.id) FROM unnest($1::uuid[]) AS asked (id) WHERE NOT EXISTS (
    SELECT FROM predictions
    WHERE predictions.id = asked.id
      AND predictions."timestamp" = {OWN_TIMESTAMP.format(id="asked.id")}
      AND predictions.id BETWEEN $2 AND $3 AND predictions."timestamp" BETWEEN $4 AND $5)"""  # noqa: S608 (only our own names enter the statement)
# The timestamp has milliseconds; half of one allows for the rounding of the division.
COUNT = """
SELECT count(*) FILTER (WHERE "timestamp" >= $1 AND "timestamp" < $2) AS rows,
       array_agg(id) FILTER (WHERE abs(extract(epoch FROM "timestamp" - {own})) > 0.0005)
           AS misdated
FROM {table}"""


class Answers(NamedTuple):
    """A client's answer log: the number of its answers, and their distinct ids."""

    lines: int
    ids: Ids


class Outstanding(NamedTuple):
    """Records that are not in the table yet.

    `spool` and `dead_letters` are ids of predictions. `labels` counts the labels in the spool,
    `unreadable` the dead letters that hold no prediction, and `newer` the records that wait for a
    newer release.
    """

    spool: Ids
    dead_letters: Ids
    labels: int
    unreadable: int
    newer: int


class Locations(NamedTuple):
    """Ids by the place where they were found; the sets are disjoint."""

    table: Ids
    spool: Ids
    dead_letters: Ids


@dataclass(frozen=True)
class AnswerLogReport:
    """The distinct ids of an answer log, counted by where they are.

    `lines` answers were logged, `repeated` of them under an id that another line has too.
    `in_spool` and `set_aside` (dead letters) count ids that are not in the table. `expired` counts
    ids of days that retention has removed, and `lost` those that are nowhere.
    """

    lines: int
    repeated: int
    in_table: int
    in_spool: int
    set_aside: int
    expired: int
    lost: int


@dataclass(frozen=True)
class ReconciliationReport:
    """Counts of a reconciliation; `rows` are the rows of the window.

    `duplicated` counts ids that the table has more than once, or under a timestamp that is not
    their own. `in_spool` and `set_aside` (dead letters) count predictions that are not in the
    table. `unreadable` counts dead letters that hold no prediction, and `kept_for_newer` records
    that wait for a newer release. `log` is None without an answer log.
    """

    since: datetime
    until: datetime
    rows: int
    duplicated: int
    in_spool: int
    labels_in_spool: int
    set_aside: int
    unreadable: int
    kept_for_newer: int
    log: AnswerLogReport | None

    @property
    def agrees(self) -> bool:
        return not self.duplicated and not (self.log and self.log.lost)


def find_outstanding(state: State) -> Outstanding:
    """Read the spool and the dead letters. Raises DataError, OSError."""
    spooled, dead, labels, unreadable = list[bytes](), list[bytes](), 0, 0
    newer = sum(1 for _ in DeadLetters(state.spool, NEWER).entries())
    for payload in unshipped_payloads(state.spool):
        if is_newer_kind(payload):
            newer += 1
            continue
        record = _record(payload)
        identifier = _prediction_id(record)
        labels += identifier is None and not isinstance(record, RefusalCount)
        if identifier:
            spooled.append(identifier)
    for entry in DeadLetters(state.spool).entries():
        identifier = _prediction_id(_record(entry.data))
        unreadable += identifier is None
        if identifier:
            dead.append(identifier)
    return Outstanding(id_array(spooled), id_array(dead), labels, unreadable, newer)


def _record(payload: bytes) -> Record | None:
    """Return the record, or None if the payload is none."""
    try:
        return decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return None


def _prediction_id(record: Record | None) -> bytes | None:
    """Return the prediction's id, or None for another record or an invalid id."""
    try:
        return id_bytes(record.id) if isinstance(record, Prediction) else None
    except ValueError:
        return None


async def compare(
    connection: Any,
    state: State,
    answers: Answers | None,
    window: tuple[datetime, datetime],
    kept_days: int,
    progress: Progress,
) -> ReconciliationReport:
    """Compare the spool, the table and the answer log.

    The rows of `window` are counted. With an answer log, the whole table is searched for duplicate
    ids, and ids of days older than `kept_days` may be expired. Raises the errors of asyncpg,
    DataError, OSError.
    """
    outstanding = find_outstanding(state)
    logged = answers.ids if answers else id_array(())
    known = np.unique(np.concatenate([logged, outstanding.spool, outstanding.dead_letters]))
    absent = await _absent(connection, known, lambda share: progress(share * 0.6))
    in_table = without(known, absent)
    rows, misdated = await _count(
        connection, window, answers is not None, lambda share: progress(0.6 + share * 0.4)
    )
    spool = without(outstanding.spool, in_table)
    dead_letters = without(outstanding.dead_letters, in_table, spool)
    locations = Locations(in_table, spool, dead_letters)
    return ReconciliationReport(
        since=window[0],
        until=window[1],
        rows=rows,
        duplicated=len(np.intersect1d(misdated, logged) if answers else misdated),
        in_spool=len(spool),
        labels_in_spool=outstanding.labels,
        set_aside=len(dead_letters),
        unreadable=outstanding.unreadable,
        kept_for_newer=outstanding.newer,
        log=await _log_report(connection, state, answers, locations, kept_days)
        if answers
        else None,
    )


async def _log_report(
    connection: Any, state: State, answers: Answers, locations: Locations, kept_days: int
) -> AnswerLogReport:
    missing = without(answers.ids, *locations)
    if len(missing):
        # A row may have moved after the first look at its place. Look again, the table last.
        again = find_outstanding(state)
        missing = without(missing, again.spool, again.dead_letters)
        missing = await _absent(connection, missing, lambda _: None)
    oldest_kept = datetime.now(UTC).date() - timedelta(days=kept_days)
    expired = await _count_expired(connection, missing, oldest_kept)
    in_spool = len(np.intersect1d(answers.ids, locations.spool))
    dead_letters = len(np.intersect1d(answers.ids, locations.dead_letters))
    return AnswerLogReport(
        lines=answers.lines,
        repeated=answers.lines - len(answers.ids),
        in_table=len(answers.ids) - len(missing) - in_spool - dead_letters,
        in_spool=in_spool,
        set_aside=dead_letters,
        expired=expired,
        lost=len(missing) - expired,
    )


async def _absent(connection: Any, ids: Ids, progress: Progress) -> Ids:
    """Return the ids that the table does not have under their own timestamp."""
    absent: list[bytes] = []
    for start in range(0, len(ids), CHUNK):
        chunk = [UUID(bytes=element_bytes(value)) for value in ids[start : start + CHUNK]]
        # The ids are sorted, so that the first and the last one bound the timestamps too.
        ends = ids[[start, start + len(chunk) - 1]]
        rows = await connection.fetchval(ABSENT, chunk, chunk[0], chunk[-1], *timestamps(ends))
        absent += [identifier.bytes for identifier in rows or ()]
        progress((start + len(chunk)) / len(ids))
    return id_array(absent)


async def _count(
    connection: Any, window: tuple[datetime, datetime], everywhere: bool, progress: Progress
) -> tuple[int, Ids]:
    """Return the rows of the window, and the ids under a timestamp that is not their own.

    Days outside the window are searched for such ids only with `everywhere`.
    """
    days = [
        part
        for part in await partitions(connection)
        if part.state == "attached" and (everywhere or _touches(part.day, window))
    ]
    total, done, rows, misdated = sum(part.bytes for part in days) or 1, 0, 0, list[bytes]()
    for part in days:
        row = await connection.fetchrow(
            COUNT.format(own=OWN_TIMESTAMP.format(id="id"), table=part.name), *window
        )
        rows += row["rows"]
        misdated += [identifier.bytes for identifier in row["misdated"] or ()]
        done += part.bytes
        progress(done / total)
    return rows, id_array(misdated)


def _touches(day: date, window: tuple[datetime, datetime]) -> bool:
    return window[0].astimezone(UTC).date() <= day <= window[1].astimezone(UTC).date()


async def _count_expired(connection: Any, missing: Ids, oldest_kept: date) -> int:
    """Count the missing ids of days older than `oldest_kept` that have no partition any more."""
    attached = {part.day for part in await partitions(connection) if part.state == "attached"}
    return sum(
        moment.date() < oldest_kept and moment.date() not in attached
        for moment in timestamps(missing)
    )
