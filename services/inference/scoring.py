"""Scoring: from a validated transaction to an audited answer.

Each prediction is appended to the audit before it is answered. Predictions are counted only here.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import msgspec

from fraudops.audit.records import Prediction, encode
from fraudops.feature_encryption import Protect
from fraudops.ids import uuid7
from services.inference.audit.writers import Audit
from services.inference.metrics import Metrics
from services.inference.model import LoadedModel
from services.inference.parsing import (
    REPORTED_FAULTS,
    FieldFault,
    InvalidBodyError,
    Reader,
    RowList,
)

CHUNK = 128
TRANSACTIONS = RowList("transactions")
Row = TypeVar("Row", bound=msgspec.Struct)
_astuple = msgspec.structs.astuple


class Scored(msgspec.Struct, frozen=True, gc=False):
    """The answer to one transaction; `prediction` is 1 if the probability >= `threshold`."""

    prediction_id: str
    fraud_probability: float
    prediction: int
    model_version: str
    threshold: float


class ScoredBatch(msgspec.Struct, frozen=True):
    """One answer for each transaction, in the same order."""

    predictions: list[Scored]


class PendingRequest(NamedTuple):
    """One transaction with the model that scores it.

    `request_id` is the client's. `started` is a time of perf_counter in seconds.
    """

    model: LoadedModel
    transaction: Any
    request_id: str | None
    started: float


class Scoring:
    """Scores, audits and counts transactions.

    The caller passes the model, so that a request keeps the model that it started with.
    """

    def __init__(
        self, audit: Audit, metrics: Metrics, pod: str, protect: Protect | None = None
    ) -> None:
        self._audit, self._metrics, self._pod, self._protect = audit, metrics, pod, protect

    async def one(
        self, model: LoadedModel, body: bytes, request_id: str | None, started: float
    ) -> Scored:
        """Score the body of one transaction; `started` is a time of perf_counter in seconds.

        Raises InvalidBodyError, SpoolFullError or StoreDownError.
        """
        transaction = model.reader.read(body)
        probability = model.scorer.score(_astuple(transaction)[: model.reader.features])
        scored, record = self._decide(model, transaction, probability, request_id, started)
        await self._audit.append(record)
        self._metrics.decided(scored.prediction, 1 - scored.prediction)
        return scored

    def at_once(self, requests: Sequence[PendingRequest]) -> list[Scored]:
        """Score several requests and audit them with one append: all or none.

        Call it only if the audit does not wait. Raises SpoolFullError or StoreDownError.
        """
        answers, records = [], []
        # A promotion may happen between two requests, so group them by their model.
        for model, group in groupby(requests, lambda request: request.model):
            same_model = list(group)
            probabilities = model.scorer.score_few(
                [_astuple(request.transaction)[: model.reader.features] for request in same_model]
            )
            for request, probability in zip(same_model, probabilities, strict=True):
                scored, record = self._decide(
                    model, request.transaction, probability, request.request_id, request.started
                )
                answers.append(scored)
                records.append(record)
        self._audit.put(records)
        frauds = sum([scored.prediction for scored in answers])
        self._metrics.decided(frauds, len(answers) - frauds)
        return answers

    async def many(
        self, model: LoadedModel, body: bytes, request_id: str, started: float
    ) -> list[Scored]:
        """Score the body of a batch: all rows or none, in their order. Raises as `one` does."""
        reader = model.reader
        answers: list[Scored] = []
        records: list[bytes] = []
        # Score each chunk before reading the next, while its rows are in the CPU cache.
        async for transactions in read_rows(reader, TRANSACTIONS, body):
            for transaction, probability in zip(
                transactions,
                model.scorer.score_many(reader.matrix(transactions)).tolist(),
                strict=True,
            ):
                scored, record = self._decide(model, transaction, probability, request_id, started)
                answers.append(scored)
                records.append(record)
        await self._audit.append_many(records)
        frauds = sum(scored.prediction for scored in answers)
        self._metrics.decided(frauds, len(answers) - frauds)
        return answers

    def _decide(
        self,
        model: LoadedModel,
        transaction: Any,
        probability: float,
        request_id: str | None,
        started: float,
    ) -> tuple[Scored, bytes]:
        """Return the answer and its encoded audit record."""
        transaction_id, entity_key = transaction.transaction_id, transaction.entity_key
        named = transaction_id is not None or entity_key is not None
        identifier = uuid7()
        prediction = 1 if probability >= model.threshold else 0
        # The features must not contain the ids. A transaction without ids encodes as its features
        # alone, so it needs no copy.
        features = (
            model.reader.features_kind(*_astuple(transaction)[: model.reader.features])
            if named
            else transaction
        )
        record = Prediction(
            id=identifier,
            features=self._protect(identifier, features) if self._protect else features,
            fraud_probability=probability,
            prediction=prediction,
            threshold=model.threshold,
            model_name=model.name,
            model_version=model.version,
            model_digest=model.digest,
            latency_ms=(perf_counter() - started) * 1000,
            pod=self._pod,
            request_id=request_id or identifier,
            transaction_id=transaction_id,
            entity_key=entity_key,
        )
        return Scored(identifier, probability, prediction, model.version, model.threshold), encode(
            record
        )


async def read_rows(reader: Reader[Row], rows: RowList, body: bytes) -> AsyncIterator[list[Row]]:
    """Yield the rows, at most CHUNK at a time; other requests may run in between.

    No row follows a faulty one. At the end, raises InvalidBodyError with the first fault of up to
    REPORTED_FAULTS rows.
    """
    read = 0
    for piece in rows.pieces(body):
        parsed = reader.read_list(piece)
        if not parsed or read + len(parsed) > rows.most:
            break
        read += len(parsed)
        for start in range(0, len(parsed), CHUNK):
            yield parsed[start : start + CHUNK]
            await asyncio.sleep(0)
    else:
        return
    # Decode row by row to find the faults. Rows of earlier pieces were yielded already.
    faults: list[FieldFault] = []
    raws = rows.split(body)
    for start in range(0, len(raws), CHUNK):
        chunk: list[Row] = []
        for index, raw in enumerate(raws[start : start + CHUNK], start):
            try:
                chunk.append(reader.decode(raw))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                faults.append(msgspec.structs.replace(reader.faults(raw)[0], index=index))
        if len(faults) >= REPORTED_FAULTS:
            break
        if not faults and not read:
            yield chunk
        await asyncio.sleep(0)
    if read and not faults:
        # All rows are valid, so the cuts were right. The body then has the list twice: the pieces
        # came from the first one, and the decoder uses the last one.
        faults.append(FieldFault(field=rows.key, reason="must be given once"))
    if faults:
        raise InvalidBodyError(faults)
