"""Deletion on request: the features of predictions, whose rows stay, and labels.

Predictions are named by their ids, by transaction_id or by entity_key.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from fraudops.audit.partitions import partitions
from fraudops.audit.prediction_ids import id_array, id_bytes, timestamps
from fraudops.audit.records import LabelRecord, Prediction
from fraudops.audit.waiting_records import WaitingRecord, waiting_records
from fraudops.errors import FraudopsError, RefusedError, SettingsError, StoreDownError
from fraudops.spool.segments import ASIDE
from fraudops.state import State

CHUNK = 10_000
NOTHING = "Nothing was forgotten"
# {} stand for parameters.
BY_ID = """(id = ANY({}::uuid[]) AND "timestamp" = ANY({}::timestamptz[]))"""
BY_TRANSACTION = "transaction_id = ANY({}::text[])"
BY_ENTITY = "entity_key = ANY({}::text[])"
FORGET = """
UPDATE predictions SET features = NULL, features_sealed = NULL
WHERE ({matching}) AND (features IS NOT NULL OR features_sealed IS NOT NULL)"""
COUNT = """
SELECT count(*) FROM predictions
WHERE ({matching}) AND features IS NULL AND features_sealed IS NULL"""
IN_TABLE = f"SELECT id::text FROM predictions WHERE {BY_ID.format('$1', '$2')}"  # noqa: S608
# A prediction_id names one prediction of a transaction. Labels that name the transaction stay.
DELETE_BY_NAME = """
DELETE FROM labels WHERE prediction_id = ANY($1::uuid[]) OR transaction_id = ANY($2::text[])"""
DELETE_BY_ANSWER = """
DELETE FROM labels USING (
    SELECT id AS prediction_id, transaction_id FROM predictions WHERE {answers}
) AS answer WHERE labels.{name} = answer.{name}"""
# Whether one of the labels outside the table, by their names, belongs to the answers.
BELONGS = """
SELECT EXISTS (
    SELECT FROM predictions
    WHERE ({answers}) AND (id = ANY({ids}::uuid[]) OR transaction_id = ANY({names}::text[])))"""


# The text of a condition, and one value for each of its {}.
Part = tuple[str, list[Any]]


class Condition(NamedTuple):
    """A condition on rows of `predictions`, with its parameters."""

    text: str
    parameters: list[Any]


class Forgotten(NamedTuple):
    """The numbers of named predictions, whose features are cleared, and of deleted labels."""

    predictions: int
    labels: int


@dataclass(frozen=True)
class ForgetRequest:
    """What to forget: ids of predictions as canonical text, transaction_ids and entity_keys."""

    predictions: frozenset[str] = frozenset()
    transactions: frozenset[str] = frozenset()
    entities: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, predictions: Iterable[str], transactions: Iterable[str], entities: Iterable[str]
    ) -> Self:
        """Check the names. Raises SettingsError, which does not quote them."""
        request = cls(
            frozenset(map(_canonical, predictions)), frozenset(transactions), frozenset(entities)
        )
        names = request.transactions | request.entities
        if not all(name and name.isprintable() for name in names):
            raise SettingsError("a transaction_id or an entity_key must be printable text")
        if not names and not request.predictions:
            raise SettingsError("name what to forget by --prediction, --transaction or --entity")
        return request

    @property
    def indirect(self) -> bool:
        """True if a label with another name may belong to the request through a prediction."""
        return bool(self.transactions or self.entities)

    def matching(self) -> Condition:
        """Return the condition of all predictions that are to be forgotten."""
        return _any_of((BY_ID, _by_id(self.predictions)), *self._indirect())

    def answers(self) -> Condition:
        """Return the condition of the predictions that are not named by their ids."""
        return _any_of(*self._indirect())

    def _indirect(self) -> tuple[Part, ...]:
        return (BY_TRANSACTION, [list(self.transactions)]), (BY_ENTITY, [list(self.entities)])

    def names(self, record: Prediction | LabelRecord) -> bool:
        """Return whether the request names the record itself."""
        if isinstance(record, LabelRecord):
            return (
                record.prediction_id in self.predictions
                or record.transaction_id in self.transactions
            )
        return (
            record.id in self.predictions
            or record.transaction_id in self.transactions
            or record.entity_key in self.entities
        )


async def forget(connection: Any, state: State, request: ForgetRequest) -> Forgotten:
    """Clear the features of all matching predictions and delete their labels, or do nothing.

    Running it again changes nothing. A copy of a prediction that is shipped or replayed later does
    not restore the features, because the shipper never changes a row that the table has.

    Raises SettingsError for an id that the table does not have, StoreDownError while a prediction
    or a label is still in the spool, or a day is out of the table, and RefusedError when a
    prediction or a label is a dead letter.
    """
    # The spool first and the table last: a record moves from the spool to the table.
    waiting = [
        each
        for each in waiting_records(state)
        if request.names(each.record) or (request.indirect and isinstance(each.record, LabelRecord))
    ]
    matching, parameters = request.matching()
    async with connection.transaction(isolation="read_committed"):
        await _check_days(connection)
        await _check_predictions(connection, state, request, waiting)
        await _check_labels(connection, state, request, waiting)
        # Each statement sees what was committed before it. So what the checks have found in the
        # table is there for the statements that follow.
        await connection.execute(FORGET.format(matching=matching), *parameters)
        labels = await _delete_labels(connection, request)
        count = await connection.fetchval(COUNT.format(matching=matching), *parameters)
        # A day may have become invisible meanwhile. Retention exports and drops it only after this
        # transaction.
        await _check_days(connection)
        return Forgotten(count, labels)


async def _check_days(connection: Any) -> None:
    """Raise StoreDownError while retention has a day, with its features, out of the table."""
    for day in await partitions(connection):
        if day.state != "attached":
            raise StoreDownError(
                f"{day.name} is out of the table predictions: try again when `fraudops retention` "
                f"has dropped it. {NOTHING}"
            )


def _any_of(*parts: Part) -> Condition:
    """Join conditions by OR, without those that have no value.

    A condition without a value finds no row, but PostgreSQL would search every day for it, and read
    a day without its index in full.
    """
    texts, parameters = list[str](), list[Any]()
    for text, values in parts:
        if values[0]:
            parameters += values
            first = len(parameters) - len(values) + 1
            texts.append(text.format(*(f"${first + n}" for n in range(len(values)))))
    return Condition(" OR ".join(texts), parameters)


def _by_id(identifiers: Iterable[str]) -> list[Any]:
    """Return the parameters of BY_ID."""
    ids = list(identifiers)
    return [ids, timestamps(id_array(map(id_bytes, ids)))]


async def _delete_labels(connection: Any, request: ForgetRequest) -> int:
    done = [
        await connection.execute(
            DELETE_BY_NAME, list(request.predictions), list(request.transactions)
        )
    ]
    if request.indirect:
        answers, parameters = request.answers()
        done += [
            await connection.execute(
                DELETE_BY_ANSWER.format(answers=answers, name=name), *parameters
            )
            for name in ("prediction_id", "transaction_id")
        ]
    return sum(int(each.split()[-1]) for each in done)


async def _check_predictions(
    connection: Any, state: State, request: ForgetRequest, waiting: Sequence[WaitingRecord]
) -> None:
    """Raise an error for a prediction that the table does not have."""
    outside = {each.record.id: each for each in waiting if isinstance(each.record, Prediction)}
    wanted = sorted(request.predictions | outside.keys())
    rows = await connection.fetch(IN_TABLE, *_by_id(wanted))
    for identifier in sorted(set(wanted) - {row["id"] for row in rows}):
        if identifier not in outside:
            raise SettingsError(f"the table has no prediction {identifier}. {NOTHING}")
        raise _outside(state, outside[identifier].folder, identifier)


async def _check_labels(
    connection: Any, state: State, request: ForgetRequest, waiting: Sequence[WaitingRecord]
) -> None:
    """Raise an error for a label of the request that may not be in the table yet."""
    by_folder: dict[str | None, list[LabelRecord]] = {}
    for each in waiting:
        if isinstance(each.record, LabelRecord):
            by_folder.setdefault(each.folder, []).append(each.record)
    for folder, labels in by_folder.items():
        if any(map(request.names, labels)) or await _belong(connection, request, labels):
            raise _outside(state, folder, "a label")


async def _belong(connection: Any, request: ForgetRequest, labels: Sequence[LabelRecord]) -> bool:
    """Return whether an answer in the table makes one of the labels a part of the request."""
    if not request.indirect:
        return False
    answers, parameters = request.answers()
    ids, names = (f"${len(parameters) + more}" for more in (1, 2))
    statement = BELONGS.format(answers=answers, ids=ids, names=names)
    for start in range(0, len(labels), CHUNK):
        chunk = labels[start : start + CHUNK]
        named = (
            [label.prediction_id for label in chunk if label.prediction_id],
            [label.transaction_id for label in chunk if label.transaction_id],
        )
        if await connection.fetchval(statement, *parameters, *named):
            return True
    return False


def _outside(state: State, folder: str | None, what: str) -> FraudopsError:
    """Return the error that says where a record is that cannot be forgotten yet."""
    if folder == ASIDE:
        return RefusedError(
            f"{what} is a dead letter in {state.spool / ASIDE}: replay it, or remove its line. "
            f"{NOTHING}"
        )
    return StoreDownError(f"{what} is still in the spool: try again when it is shipped. {NOTHING}")


def _canonical(identifier: str) -> str:
    try:
        id_bytes(identifier.lower())
    except ValueError:
        raise SettingsError(
            "the id of a prediction must be its prediction_id, which is a UUIDv7"
        ) from None
    return identifier.lower()
