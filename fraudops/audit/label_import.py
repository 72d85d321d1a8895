"""Imports of labels, which go on after a kill.

Each batch is one transaction, so that an import goes on where it ended. The table `label_imports`
has one row for each file and its options. The row says how many rows of the file are committed, and
counts them.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import Any, NamedTuple, Self
from uuid import UUID, uuid4

from msgspec.structs import astuple

from fraudops.audit.connection import limited_transaction
from fraudops.audit.label_names import Name, NamedAnswers, find_answers, stored_labels
from fraudops.audit.label_rows import LabelRow
from fraudops.audit.records import LabelRecord
from fraudops.errors import StoreDownError

# A label that another transaction is writing makes the batch wait.
LOCK_SECONDS = 20.0
BEGIN = """
INSERT INTO label_imports (
    id, file_sha256, options, started_at, next_batch,
    rows, inserted, repeated, contradictory, unmatched, refused, requested_by
) VALUES ($1, $2, $3, $4, 0, 0, 0, 0, 0, 0, 0, $5)
ON CONFLICT (file_sha256, options) DO NOTHING"""
FIND = """
SELECT id, started_at, finished_at, rows, inserted, repeated, contradictory, unmatched, refused
FROM label_imports WHERE {}"""
FIND_FILE, FIND_ID = FIND.format("file_sha256 = $1 AND options = $2"), FIND.format("id = $1")
LOCK = "SELECT rows FROM label_imports WHERE id = $1 AND finished_at IS NULL FOR UPDATE"
COUNT = """
UPDATE label_imports SET next_batch = next_batch + 1,
    rows = $2, inserted = $3, repeated = $4, contradictory = $5, unmatched = $6, refused = $7
WHERE id = $1"""
FINISH = "UPDATE label_imports SET finished_at = now() WHERE id = $1 AND finished_at IS NULL"
TYPES = {
    **dict.fromkeys(("id", "prediction_id"), "uuid"),
    **dict.fromkeys(("labelled_at", "received_at"), "timestamptz"),
    "label": "int2",
}
COLUMNS = LabelRecord.__struct_fields__
_ARRAYS = ", ".join(
    f"${place}::{TYPES.get(name, 'text')}[]" for place, name in enumerate(COLUMNS, 1)
)
# In the order of ids: two imports that wait for each other's rows would be a deadlock.
INSERT = f"""
INSERT INTO labels ({", ".join(COLUMNS)})
SELECT * FROM unnest({_ARRAYS}) AS new ({", ".join(COLUMNS)}) ORDER BY id
ON CONFLICT (id) DO NOTHING RETURNING id"""  # noqa: S608 (only our own names)


class RowResult(NamedTuple):
    """What became of a row. A refused row has a `fault`, and none of the other marks."""

    row: LabelRow
    fault: str = ""
    repeated: bool = False
    unmatched: bool = False
    contradictory: bool = False


@dataclass(frozen=True)
class ImportCounts:
    """Counts of the committed rows of a file: `rows` = `inserted` + `repeated` + `refused`.

    A `repeated` row is a label that the table or an earlier row of the file has already.
    Inserted and repeated rows are `unmatched` if no answer has their name, and `contradictory` if
    another label of their transaction says the opposite.
    """

    rows: int = 0
    inserted: int = 0
    repeated: int = 0
    contradictory: int = 0
    unmatched: int = 0
    refused: int = 0

    @property
    def matched(self) -> int:
        return self.inserted + self.repeated - self.unmatched

    def after(self, results: Sequence[RowResult]) -> "ImportCounts":
        """Return the counts after some more rows."""
        refused = sum(bool(result.fault) for result in results)
        repeated = sum(result.repeated for result in results)
        return ImportCounts(
            rows=self.rows + len(results),
            inserted=self.inserted + len(results) - refused - repeated,
            repeated=self.repeated + repeated,
            contradictory=self.contradictory + sum(result.contradictory for result in results),
            unmatched=self.unmatched + sum(result.unmatched for result in results),
            refused=self.refused + refused,
        )


@dataclass(frozen=True)
class LabelImport:
    """The import of one file, as the database knows it.

    `finished_at` is None until the last row is committed. Then nothing changes any more.
    """

    id: UUID
    started_at: datetime
    finished_at: datetime | None
    counts: ImportCounts

    @property
    def client(self) -> str:
        """The `client` of the labels that this import inserts."""
        return f"import:{self.id.hex[:8]}"

    @classmethod
    async def begin(
        cls, connection: Any, digest: str, options: str, now: datetime, requested_by: str
    ) -> Self:
        """Return the import of the file with these options; create it if there is none.

        `digest` is the SHA-256 of the file, and `now` has a time zone.
        """
        await connection.execute(BEGIN, uuid4(), digest, options, now, requested_by)
        return cls._of(await connection.fetchrow(FIND_FILE, digest, options))

    async def read_again(self, connection: Any) -> Self:
        """Return the import as the database knows it now."""
        return self._of(await connection.fetchrow(FIND_ID, self.id))

    @classmethod
    def _of(cls, record: Any) -> Self:
        row = dict(record)
        moments = (row.pop("started_at"), row.pop("finished_at"))
        return cls(row.pop("id"), *moments, ImportCounts(**row))

    async def store(
        self,
        connection: Any,
        rows: Sequence[LabelRow],
        since: date,
        write: Callable[[Sequence[RowResult]], None],
    ) -> Self:
        """Commit the next rows of the file, and return the import after them.

        `write` gets the results before they are committed: what it writes of rows that are not
        committed must be dropped when the import goes on. A transaction_id is searched in the
        answers from the day `since` on. Raises StoreDownError while another process imports the
        same file, and the errors of asyncpg.
        """
        labels = [row.label for row in rows if row.label]
        answers = await find_answers(connection, {name_of(label) for label in labels}, since)
        names = answers.with_aliases(name_of(label) for label in labels)
        stored = await stored_labels(connection, names)
        async with limited_transaction(connection, LOCK_SECONDS):
            if await connection.fetchval(LOCK, self.id) != self.counts.rows:
                raise StoreDownError(
                    "another process imports the same file: try again when it has ended"
                )
            columns = zip(*map(astuple, labels), strict=True) if labels else [()] * len(COLUMNS)
            new = {str(row["id"]) for row in await connection.fetch(INSERT, *map(list, columns))}
            results = judge(rows, new, answers, stored)
            counts = self.counts.after(results)
            write(results)
            await connection.execute(COUNT, self.id, *asdict(counts).values())
        return replace(self, counts=counts)

    async def finish(self, connection: Any) -> None:
        """Note that the last row is committed."""
        await connection.execute(FINISH, self.id)


def name_of(label: LabelRecord) -> Name:
    if label.prediction_id:
        return UUID(label.prediction_id)
    return str(label.transaction_id)


def judge(
    rows: Sequence[LabelRow], new: set[str], answers: NamedAnswers, stored: dict[Name, set[int]]
) -> list[RowResult]:
    """Return the result of each row, in their order.

    `new` has the ids of the labels that the table did not have. `stored` has the classes that the
    table had for each name; the rows are added to it. So the result of a row depends on the rows
    before it alone, and not on where a batch begins.
    """
    results, seen = list[RowResult](), set[str]()
    for row in rows:
        label = row.label
        if label is None:
            results.append(RowResult(row, row.fault))
            continue
        name = name_of(label)
        aliases = answers.aliases(name)
        results.append(
            RowResult(
                row,
                repeated=label.id not in new or label.id in seen,
                unmatched=not answers.has(name),
                contradictory=any(1 - label.label in stored.get(alias, ()) for alias in aliases),
            )
        )
        seen.add(label.id)
        stored.setdefault(name, set()).add(label.label)
    return results
