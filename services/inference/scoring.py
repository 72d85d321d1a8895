"""From a checked transaction to an audited answer: what is answered is in the spool before it
leaves, and is counted here and nowhere else.
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
    """The answer to one transaction; `prediction` is 1 from the threshold on."""

    prediction_id: str
    fraud_probability: float
    prediction: int
    model_version: str
    threshold: float


class ScoredBatch(msgspec.Struct, frozen=True):
    """One answer a transaction, in their order."""

    predictions: list[Scored]


class PendingRequest(NamedTuple):
    """One transaction with the model that serves it;

    `request_id` is the client's, `started` perf_counter's.
    """

    model: LoadedModel
    transaction: Any
    request_id: str | None
    started: float


class Scoring:
    """Scores, audits and counts with whatever model it is given: a request keeps the one that it
    began with.
    """

    def __init__(
        self, audit: Audit, metrics: Metrics, pod: str, protect: Protect | None = None
    ) -> None:
        self._audit, self._metrics, self._pod, self._protect = audit, metrics, pod, protect

    async def one(
        self, model: LoadedModel, body: bytes, request_id: str | None, started: float
    ) -> Scored:
        """`started` is perf_counter's. Raises InvalidBodyError, SpoolFullError, StoreDownError."""
        transaction = model.reader.read(body)
        probability = model.scorer.score(_astuple(transaction)[: model.reader.features])
        scored, record = self._decide(model, transaction, probability, request_id, started)
        await self._audit.append(record)
        self._metrics.decided(scored.prediction, 1 - scored.prediction)
        return scored

    def at_once(self, asked: Sequence[PendingRequest]) -> list[Scored]:
        """Transactions that came together, by one append: all or none.

        Only where the audit does not wait. Raises SpoolFullError, StoreDownError.
        """
        answers, records = [], []
        for model, together in groupby(asked, lambda one: one.model):
            ones = list(together)
            probabilities = model.scorer.score_few(
                [_astuple(one.transaction)[: model.reader.features] for one in ones]
            )
            for one, probability in zip(ones, probabilities, strict=True):
                scored, record = self._decide(
                    model, one.transaction, probability, one.request_id, one.started
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
        """In the order of the rows; all or nothing. Raises as `one` does."""
        reader = model.reader
        answers: list[Scored] = []
        records: list[bytes] = []
        # Each chunk's rows go before the next come: they are still in the processor's cache.
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
        """The answer and its audit record."""
        transaction_id, entity_key = transaction.transaction_id, transaction.entity_key
        named = transaction_id is not None or entity_key is not None
        identifier = uuid7()
        prediction = 1 if probability >= model.threshold else 0
        # The ids are left out of the features; without any, the transaction encodes as its features
        # alone.
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
    """The rows, at most CHUNK at a time, with room for other requests in between.

    Raises InvalidBodyError with the first fault of up to REPORTED_FAULTS rows, once all were
    looked at; after the first faulty row none come.
    """
    read = 0
    for piece in rows.pieces(body):
        found = reader.read_list(piece)
        if not found or read + len(found) > rows.most:
            break
        read += len(found)
        for start in range(0, len(found), CHUNK):
            yield found[start : start + CHUNK]
            await asyncio.sleep(0)
    else:
        return
    # Row by row, to say what is wrong with which; rows may have gone already.
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
        # A row that reads has no brace that could mislead the cuts: another list follows the one
        # that was begun. (Before any row has gone the last counts.)
        faults.append(FieldFault(field=rows.key, reason="must be given once"))
    if faults:
        raise InvalidBodyError(faults)
