"""Find the answers that labels name, and the labels that the audit has under the same names.

A name is a prediction_id (UUID) or a transaction_id (str).
"""

import contextlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import UUID

import asyncpg

from fraudops.audit.partitions import Partition, partitions

Name = UUID | str
EPOCH = date(1970, 1, 1)
DAY_MS = 86_400_000
# LIMIT and OFFSET keep the planner from a join that would read a whole day: each name is one
# look-up in the index. A transaction_id that a client repeats for ever is not read in full.
_ANSWERS = """
SELECT answer.id, answer.transaction_id FROM unnest($1::{type}[]) AS asked (name)
CROSS JOIN LATERAL (
    SELECT id, transaction_id FROM {day} WHERE {column} = asked.name LIMIT 100
) AS answer"""
_LABELS = """
SELECT DISTINCT asked.name, found.label FROM unnest($1::{type}[]) AS asked (name)
CROSS JOIN LATERAL (
    SELECT label FROM labels WHERE {column} = asked.name OFFSET 0
) AS found"""

# Without statistics the planner would read a whole day for each name. The look-ups are too short
# for JIT compilation to save time.
_PLANNER = "SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)"


@dataclass
class NamedAnswers:
    """The answers that were found.

    `of_transaction` maps a transaction_id to the ids of its answers. `transaction_of` maps the id
    of an answer to its transaction_id, or None. `repeats` maps the transaction_id of such an answer
    to the ids of its answers in the days around.
    """

    of_transaction: dict[str, list[UUID]] = field(default_factory=dict)
    transaction_of: dict[UUID, str | None] = field(default_factory=dict)
    repeats: dict[str, list[UUID]] = field(default_factory=dict)

    def has(self, name: Name) -> bool:
        return name in self.of_transaction or name in self.transaction_of

    def aliases(self, name: Name) -> tuple[Name, ...]:
        """Return every known name of the transaction that `name` names."""
        if isinstance(name, str):
            return (name, *self.of_transaction.get(name, ()))
        if not (transaction := self.transaction_of.get(name)):
            return (name,)
        # After more than a day, the same transaction_id is another decision.
        answers = self.repeats.get(transaction, ())
        near = (
            each for each in answers if abs(_milliseconds(each) - _milliseconds(name)) <= DAY_MS
        )
        return (name, transaction, *near)

    def with_aliases(self, names: Iterable[Name]) -> set[Name]:
        return {alias for name in names for alias in self.aliases(name)}


async def find_answers(
    connection: Any, names: Collection[Name], since: date | None = None
) -> NamedAnswers:
    """Find the answers that the names name, day by day, the newest first.

    A transaction_id is searched from the day `since` on. All its answers of one decision are
    found; older ones need not be. Raises the errors of asyncpg.
    """
    found = NamedAnswers()
    days = [part for part in reversed(await partitions(connection)) if part.state == "attached"]
    around = await _find_ids(connection, days, names, found)
    transactions = {name for name in names if isinstance(name, str)}
    # A repeat comes within a day of the first answer. So a transaction that was found is searched
    # in one day more, and then no longer: few names reach the oldest days.
    before: set[str] = set()
    for part in days:
        repeats = around.get(_number(part.day), set())
        searched = transactions if since is None or part.day >= since else set[str]()
        if not repeats and not searched:
            continue
        rows = await _look_up(connection, part.name, "transaction_id", "text", repeats | searched)
        for row in rows:
            for asked, answers in ((repeats, found.repeats), (searched, found.of_transaction)):
                if row["transaction_id"] in asked:
                    answers.setdefault(row["transaction_id"], []).append(row["id"])
        if searched:
            transactions = transactions - before
            before = searched & {row["transaction_id"] for row in rows}
    return found


async def _find_ids(
    connection: Any, days: Sequence[Partition], names: Iterable[Name], found: NamedAnswers
) -> dict[int, set[str]]:
    """Find the answers that are named by their ids.

    Return, by the number of a day, the transactions whose repeats may be in that day.
    """
    # By the number of the day since 1970: an id may hold a time that no `date` can.
    by_day: dict[int, list[UUID]] = {}
    for name in names:
        # Every other UUID is the id of no prediction.
        if isinstance(name, UUID) and name.version == 7:
            by_day.setdefault(_milliseconds(name) // DAY_MS, []).append(name)
    around: dict[int, set[str]] = {}
    for part in days:
        number = _number(part.day)
        if ids := by_day.get(number):
            for row in await _look_up(connection, part.name, "id", "uuid", ids):
                found.transaction_of[row["id"]] = row["transaction_id"]
                if row["transaction_id"]:
                    for near in (number - 1, number, number + 1):
                        around.setdefault(near, set()).add(row["transaction_id"])
    return around


def _number(day: date) -> int:
    return (day - EPOCH).days


def _milliseconds(identifier: UUID) -> int:
    """Return the time in a UUIDv7, in milliseconds since 1970."""
    return identifier.int >> 80


async def _look_up(
    connection: Any, day: str, column: str, kind: str, names: Iterable[Name]
) -> list[Any]:
    statement = _ANSWERS.format(day=day, column=column, type=kind)
    # Retention may have dropped the day since the days were listed.
    with contextlib.suppress(asyncpg.UndefinedTableError):
        return await _fetch(connection, statement, names)
    return []


async def _fetch(connection: Any, statement: str, names: Iterable[Name]) -> list[Any]:
    async with connection.transaction():
        await connection.execute(_PLANNER)
        return list(await connection.fetch(statement, list(names)))


async def stored_labels(connection: Any, names: Iterable[Name]) -> dict[Name, set[int]]:
    """Return the classes that stored labels give to each name. Raises the errors of asyncpg."""
    labels: dict[Name, set[int]] = {}
    split: tuple[list[Name], list[Name]] = ([], [])
    for name in names:
        split[isinstance(name, str)].append(name)
    for column, kind, asked in (
        ("prediction_id", "uuid", split[0]),
        ("transaction_id", "text", split[1]),
    ):
        if asked:
            statement = _LABELS.format(column=column, type=kind)
            for row in await _fetch(connection, statement, asked):
                labels.setdefault(row["name"], set()).add(row["label"])
    return labels
