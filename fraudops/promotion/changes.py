"""The three acts that change what serves, and what each does to the serving record.

    Promote     pushes the entry that served onto the stack. Its own promoter may undo it, until
                it has reported an outcome.
    Rollback    takes its model from the stack. It is never undone: the bad version would serve
                again.
    Undo        puts the version from before a promotion into a new epoch. The failed version
                never enters the stack, and an undo is never undone.

A gate decides an act from one read of the record. The act is then reserved by a compare-and-set on
the token of that read.
"""

from dataclasses import dataclass
from typing import ClassVar

import msgspec

from fraudops.errors import FraudopsError, RefusedError
from fraudops.promotion.attempt import Act, Attempt, Strategy
from fraudops.promotion.serving_record import (
    STACK_LIMIT,
    ModelRef,
    Reservation,
    ServingEntry,
    ServingRecord,
    keep_outcome,
)


@dataclass(frozen=True)
class Promote:
    """Serve a model that the gate admitted."""

    model: ModelRef
    strategy: Strategy

    act: ClassVar[Act] = "promote"


@dataclass(frozen=True)
class Rollback:
    """Serve the model of an earlier entry again."""

    model: ModelRef
    strategy: Strategy

    act: ClassVar[Act] = "rollback"


@dataclass(frozen=True)
class Undo:
    """Serve the version from before the promotion again, because its pods are behind."""

    failed: ServingEntry
    back: ServingEntry


def changes_schema(record: ServingRecord, model: ModelRef) -> bool:
    """Return whether clients of the serving model must change their requests for this one."""
    current = record.current
    return current is not None and current.schema_fingerprint != model.schema_fingerprint


def decide_promotion(record: ServingRecord, model: ModelRef, strategy: Strategy) -> Promote:
    """Return the promotion of the model. Raises RefusedError for a broadcast to another schema."""
    if strategy == "broadcast" and changes_schema(record, model):
        assert record.current is not None
        raise RefusedError(
            f"version {model.version} reads other columns than version "
            f"{record.current.version}, which serves: clients must change their requests, "
            "so use `--strategy rollout`"
        )
    return Promote(model, strategy)


def decide_rollback(record: ServingRecord) -> Rollback:
    """Return the rollback to the way back. Raises RefusedError when there is none.

    A change of schema goes by rollout: by broadcast, every client would get 422 without warning.
    """
    entry = way_back(record)
    if entry is None:
        raise RefusedError("there is no earlier version to go back to")
    strategy: Strategy = "rollout" if changes_schema(record, entry) else "broadcast"
    return Rollback(entry.model, strategy)


def decide_undo(record: ServingRecord, request: str) -> Undo | None:
    """Return the undo of this request's own promotion, or None if no undo is allowed.

    A promoter that has reported an outcome, such as `done`, must not undo it. An undo is a
    broadcast without a prepare, so it must not change the schema.
    """
    failed, back = record.current, record.previous
    if failed is None or back is None or not record.is_unreported(request):
        return None
    own = failed.by == request and failed.act == "promote"
    if not own or failed.is_same_model(back) or changes_schema(record, back):
        return None
    return Undo(failed, back)


def way_back(record: ServingRecord) -> ServingEntry | None:
    """Return the entry that a rollback takes: the newest that is another model than the current."""
    steps = _steps_back(record)
    return record.stack[steps - 1] if steps else None


def _steps_back(record: ServingRecord) -> int:
    """Return how many entries a rollback takes off the stack; 0 when there is no way back."""
    return next(
        (
            steps
            for steps, entry in enumerate(record.stack, start=1)
            if not entry.is_same_model(record.current)
        ),
        0,
    )


def commit(record: ServingRecord, attempt: Attempt) -> ServingRecord:
    """Return the record after the commit of its reservation, with the row of its request.

    The row stays in the record until PostgreSQL has it.
    """
    reserved = record.reserved
    if reserved is None:
        raise FraudopsError("the serving record has no reservation to commit")
    entry = ServingEntry(
        **reserved.model_fields(),
        epoch=reserved.epoch,
        by=reserved.by,
        at=reserved.at,
        requested_by=reserved.requested_by,
        act=reserved.act,
        strategy=reserved.strategy,
        unknown=reserved.unknown,
    )
    committed = msgspec.structs.replace(
        record,
        current=entry,
        previous=record.current,
        stack=_stack_after(reserved, record),
        reserved=None,
    )
    return keep_outcome(committed, attempt)


def _stack_after(reserved: Reservation, record: ServingRecord) -> tuple[ServingEntry, ...]:
    if reserved.act == "rollback":
        return record.stack[_steps_back(record) :]
    # The model that serves already gets a new epoch after a restored backup. It is no way back to
    # itself.
    if record.current is None or reserved.is_same_model(record.current):
        return record.stack
    return (record.current, *record.stack)[:STACK_LIMIT]


def commit_undo(
    record: ServingRecord, undo: Undo, epoch: int, at: str, attempt: Attempt
) -> ServingRecord:
    """Return the record after the undo, with the row of the promotion that failed."""
    entry = msgspec.structs.replace(
        undo.back, epoch=epoch, by=undo.failed.by, at=at, act="undo", undo=True
    )
    # The promotion has pushed the entry of the undo's model, so it is the stack's first.
    stack = record.stack[1:]
    undone = msgspec.structs.replace(
        record, current=entry, previous=stack[0] if stack else None, stack=stack, reserved=None
    )
    return keep_outcome(undone, attempt)


def reservation(
    change: Promote | Rollback, epoch: int, request: str, requested_by: str, at: str
) -> Reservation:
    """Return the reservation, which the promoter writes before it calls the pods to prepare."""
    return Reservation(
        **change.model.model_fields(),
        epoch=epoch,
        by=request,
        at=at,
        requested_by=requested_by,
        act=change.act,
        strategy=change.strategy,
    )
