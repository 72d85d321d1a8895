"""The history of promotions: the table `promotions`, and rows that only the serving record has."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from fraudops.audit.database import create_engine, translated
from fraudops.audit.tables import promotions
from fraudops.promotion.attempt import Attempt, replaces

PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class PastAct:
    """One promotion, rollback or undo. All tries of one request are one act.

    `act` is None for a row of a release that did not store it. `finished_at` is None while no
    promoter has reported the outcome. `actor`, `authenticated`, `approver` and `signer` are as in
    `Attempt`; a row of an earlier release has none of them. `written` is false for a row that
    PostgreSQL does not have.
    """

    request: str
    started_at: datetime
    finished_at: datetime | None
    act: str | None
    from_version: str | None
    to_version: str
    to_digest: str
    epoch: int | None
    strategy: str
    requested_by: str
    outcome: str
    reason: str | None
    waiver_reason: str | None
    behind: tuple[str, ...]
    actor: str | None = None
    authenticated: bool = False
    approver: str | None = None
    signer: str | None = None
    written: bool = True

    @property
    def seconds(self) -> float | None:
        if self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


async def read_history(url: str, model: str, limit: int) -> list[PastAct]:
    """Return the newest `limit` rows of the model, newest first. Raises StoreDownError."""
    newest = (
        select(promotions)
        .where(promotions.c.model_name == model)
        .order_by(promotions.c.started_at.desc(), promotions.c.id)
        .limit(limit)
    )
    engine = create_engine(url)
    try:
        with translated(url):
            async with asyncio.timeout(PATIENCE_SECONDS), engine.connect() as connection:
                return [_of_row(row) for row in (await connection.execute(newest)).mappings()]
    finally:
        await engine.dispose()


def with_unwritten(
    stored: Sequence[PastAct], unwritten: Iterable[Attempt], limit: int
) -> list[PastAct]:
    """Return the history with the rows that the serving record keeps, newest first.

    A kept row replaces the stored row of its request as it will in PostgreSQL.
    """
    acts = {act.request: act for act in stored}
    for attempt in unwritten:
        known = acts.get(attempt.request)
        if known is None or replaces(attempt, known):
            acts[attempt.request] = _of_attempt(attempt)
    return sorted(acts.values(), key=lambda act: act.started_at, reverse=True)[:limit]


def _of_row(row: Mapping[Any, Any]) -> PastAct:
    changed = ("behind", "authenticated", "written")
    names = (name for name in PastAct.__dataclass_fields__ if name not in changed)
    return PastAct(
        **{name: row[name] for name in names},
        behind=tuple(row["behind"] or ()),
        authenticated=bool(row["authenticated"]),
    )


def _of_attempt(attempt: Attempt) -> PastAct:
    return PastAct(
        request=attempt.request,
        started_at=_moment(attempt.at),
        finished_at=_moment(attempt.finished_at) if attempt.finished_at else None,
        act=attempt.act,
        from_version=attempt.from_version,
        to_version=attempt.version,
        to_digest=attempt.digest,
        epoch=attempt.epoch,
        strategy=attempt.strategy,
        requested_by=attempt.requested_by,
        outcome=attempt.outcome,
        reason=attempt.reason,
        waiver_reason=attempt.waiver_reason,
        behind=attempt.behind,
        actor=attempt.actor,
        authenticated=attempt.authenticated,
        approver=attempt.approver,
        signer=attempt.signer,
        written=False,
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
