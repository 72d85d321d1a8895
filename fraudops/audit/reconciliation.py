"""Whether spool, table and a client's answer log agree, by ids and counts.

Nothing here changes anything.

Ids are held as arrays (n,) of 16 bytes each, sorted: a million answers take 16 MB. A row moves
from the spool to the table, or from there aside, so the spool is looked at first and the table
last; what seems lost is looked for once more.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudops.audit.dead_letters import DeadLetters
from fraudops.audit.partitions import partitions
from fraudops.audit.records import LabelRecord, decode, is_newer_kind
from fraudops.ids import timestamp_ms
from fraudops.spool.inspection import unshipped_payloads
from fraudops.spool.segments import NEWER
from fraudops.state import State

Ids = NDArray[np.bytes_]
Progress = Callable[[float], None]
CHUNK = 10_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The primary key is (id, timestamp), and the timestamp follows from the id: twice can an id stand
# only under a timestamp that is not its own.
OWN_TIMESTAMP = (
    """to_timestamp(('x' || left(replace({id}::text, '-', ''), 12))::bit(48)::bigint / 1000.0)"""
)
# The range of ids is what the primary key's index is read by, in every partition that the planner
# cannot leave out.
ABSENT = f"""
SELECT array_agg(asked.id) FROM unnest($1::uuid[]) AS asked (id) WHERE NOT EXISTS (
    SELECT FROM predictions WHERE predictions.id = asked.id AND predictions."timestamp" = {OWN_TIMESTAMP.format(id="asked.id")}
    AND predictions.id BETWEEN $2 AND $3 AND predictions."timestamp" BETWEEN $4 AND $5)"""  # noqa: S608 (names of ours only)
COUNT = """
SELECT count(*) FILTER (WHERE "timestamp" >= $1 AND "timestamp" < $2) AS rows,
       array_agg(id) FILTER (WHERE abs(extract(epoch FROM "timestamp" - {own})) > 0.0005) AS misdated
FROM {table}"""


class Answers(NamedTuple):
    """A client's answer log: `lines` answers, and their distinct ids."""

    lines: int
    ids: Ids


class Outstanding(NamedTuple):
    """The predictions that are in the spool and set aside, the labels in the spool, and how many
    stretches set aside hold no record.
    """

    spool: Ids
    aside: Ids
    labels: int
    unreadable: int
    newer: int


class Locations(NamedTuple):
    """Where ids were found: no id is in two of them."""

    table: Ids
    spool: Ids
    aside: Ids


@dataclass(frozen=True)
class AnswerLogReport:
    """Of an answer log with `lines` answers, `repeated` of them under an id that came before: the
    ids in the table, only in the spool, only set aside, of days that retention has taken, and
    nowhere.
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
    """Rows of the window;

    `duplicated`, the ids that stand in the table more than once or under a timestamp that is not
    their own; predictions that are in the spool or set aside and not in the table; labels in the
    spool; stretches set aside that hold no record; records that wait for a newer release; None
    without an answer log.
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


def ids_of(values: Iterable[bytes]) -> Ids:
    """Sorted and distinct."""
    return np.unique(np.frombuffer(b"".join(values), dtype="S16"))


def binary(identifier: str) -> bytes:
    """The 16 bytes of a canonical UUIDv7. Raises ValueError for anything else."""
    timestamp_ms(identifier)
    return UUID(identifier).bytes


def moments(ids: Ids) -> list[datetime]:
    """The millisecond inside each id."""
    return [
        EPOCH + timedelta(milliseconds=int.from_bytes(_bytes(value)[:6], "big")) for value in ids
    ]


def find_outstanding(state: State) -> Outstanding:
    """Raises DataError, OSError."""
    spooled, set_aside, labels, unreadable = list[bytes](), list[bytes](), 0, 0
    newer = sum(1 for _ in DeadLetters(state.spool, NEWER).entries())
    for payload in unshipped_payloads(state.spool):
        if is_newer_kind(payload):
            newer += 1
            continue
        identifier = _prediction_id(payload)
        labels += identifier is None
        if identifier:
            spooled.append(identifier)
    for entry in DeadLetters(state.spool).entries():
        identifier = _prediction_id(entry.data)
        unreadable += identifier is None
        if identifier:
            set_aside.append(identifier)
    return Outstanding(ids_of(spooled), ids_of(set_aside), labels, unreadable, newer)


def _prediction_id(payload: bytes) -> bytes | None:
    """None for a label, and for what is no record or has no proper id."""
    try:
        record = decode(payload)
        return None if isinstance(record, LabelRecord) else binary(record.id)
    except (msgspec.MsgspecError, ValueError):
        return None


async def compare(
    connection: Any,
    state: State,
    answers: Answers | None,
    window: tuple[datetime, datetime],
    kept_days: int,
    tell: Progress,
) -> ReconciliationReport:
    """`window` is of the table's rows that are counted; with an answer log the whole table is
    looked through for ids that stand twice.

    `tell` hears the share that is done, 0 to 1. Raises what asyncpg raises, DataError, OSError.
    """
    elsewhere = find_outstanding(state)
    asked = answers.ids if answers else ids_of(())
    known = np.unique(np.concatenate([asked, elsewhere.spool, elsewhere.aside]))
    present = _without(known, await _absent(connection, known, lambda share: tell(share * 0.6)))
    rows, misdated = await _count(
        connection, window, answers is not None, lambda share: tell(0.6 + share * 0.4)
    )
    spool = _without(elsewhere.spool, present)
    aside = _without(_without(elsewhere.aside, present), spool)
    return ReconciliationReport(
        since=window[0],
        until=window[1],
        rows=rows,
        duplicated=len(np.intersect1d(misdated, asked) if answers else misdated),
        in_spool=len(spool),
        labels_in_spool=elsewhere.labels,
        set_aside=len(aside),
        unreadable=elsewhere.unreadable,
        kept_for_newer=elsewhere.newer,
        log=await _log(connection, state, answers, Locations(present, spool, aside), kept_days)
        if answers
        else None,
    )


async def _log(
    connection: Any, state: State, answers: Answers, places: Locations, kept_days: int
) -> AnswerLogReport:
    missing = _without(_without(_without(answers.ids, places.table), places.spool), places.aside)
    if len(missing):
        again = find_outstanding(state)
        missing = _without(_without(missing, again.spool), again.aside)
        missing = await _absent(connection, missing, lambda _: None)
    expired = await _gone(connection, missing, datetime.now(UTC).date() - timedelta(days=kept_days))
    in_spool, aside = (
        len(np.intersect1d(answers.ids, places.spool)),
        len(np.intersect1d(answers.ids, places.aside)),
    )
    return AnswerLogReport(
        lines=answers.lines,
        repeated=answers.lines - len(answers.ids),
        in_table=len(answers.ids) - len(missing) - in_spool - aside,
        in_spool=in_spool,
        set_aside=aside,
        expired=expired,
        lost=len(missing) - expired,
    )


async def _absent(connection: Any, ids: Ids, tell: Progress) -> Ids:
    """Those of the ids that do not stand in the table under their own timestamp."""
    found: list[bytes] = []
    for start in range(0, len(ids), CHUNK):
        chunk = [UUID(bytes=_bytes(value)) for value in ids[start : start + CHUNK]]
        ends = ids[[start, start + len(chunk) - 1]]
        found += [
            identifier.bytes
            for identifier in await connection.fetchval(
                ABSENT, chunk, chunk[0], chunk[-1], *moments(ends)
            )
            or ()
        ]
        tell((start + len(chunk)) / len(ids))
    return ids_of(found)


async def _count(
    connection: Any, window: tuple[datetime, datetime], everywhere: bool, tell: Progress
) -> tuple[int, Ids]:
    """Rows of the window, and the ids that stand under a timestamp that is not theirs."""
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
        tell(done / total)
    return rows, ids_of(misdated)


def _touches(day: date, window: tuple[datetime, datetime]) -> bool:
    return window[0].astimezone(UTC).date() <= day <= window[1].astimezone(UTC).date()


async def _gone(connection: Any, missing: Ids, oldest_kept: date) -> int:
    """How many are of days beyond retention that have left the table."""
    there = {part.day for part in await partitions(connection) if part.state == "attached"}
    return sum(
        moment.date() < oldest_kept and moment.date() not in there for moment in moments(missing)
    )


def _without(ids: Ids, others: Ids) -> Ids:
    return np.setdiff1d(ids, others, assume_unique=True)


def _bytes(value: Any) -> bytes:
    """numpy takes trailing zeros of a bytes value for padding."""
    return bytes(value).ljust(16, b"\0")
