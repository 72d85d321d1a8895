"""Scoring: from checked transactions to audited answers.

Each prediction is appended to the audit before it is answered. Predictions are counted only here.
"""

from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from time import perf_counter
from typing import Any, NamedTuple

import msgspec

from fraudops.audit.records import Prediction, encode
from fraudops.feature_encryption import Protect
from fraudops.ids import uuid7
from services.inference.audit.writers import Audit
from services.inference.metrics import Metrics
from services.inference.model import LoadedModel

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


class ScoringContext(NamedTuple):
    """What the answers of one request have in common.

    `model` is that of the request's beginning, which a promotion does not change. `request_id` is
    the client's, or None; then an answer's own id takes its place. `received` is a time of
    perf_counter in seconds, from which the latency counts. `client` is the authenticated client.
    """

    model: LoadedModel
    request_id: str | None
    received: float
    client: str | None = None


class PendingRequest(NamedTuple):
    """One transaction, with the fields of a ScoringContext.

    `deadline` is the client's, as a time of perf_counter in seconds.
    """

    model: LoadedModel
    transaction: Any
    request_id: str | None
    received: float
    client: str | None = None
    deadline: float | None = None


class Scoring:
    """Scores, audits and counts transactions that are checked already.

    A transaction is a struct of its model's reader.
    """

    def __init__(
        self, audit: Audit, metrics: Metrics, pod: str, protect: Protect | None = None
    ) -> None:
        self._audit, self._metrics, self._pod, self._protect = audit, metrics, pod, protect

    async def one(self, context: ScoringContext, transaction: Any) -> Scored:
        """Score one transaction. Raises SpoolFullError or StoreDownError."""
        model = context.model
        probability = model.scorer.score(_astuple(transaction)[: model.reader.features])
        scored, record = self._decide(context, transaction, probability)
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
                scored, record = self._decide(request, request.transaction, probability)
                answers.append(scored)
                records.append(record)
        self._audit.put(records)
        frauds = sum([scored.prediction for scored in answers])
        self._metrics.decided(frauds, len(answers) - frauds)
        return answers

    async def many(self, context: ScoringContext, chunks: AsyncIterator[list[Any]]) -> list[Scored]:
        """Score the transactions of a batch: all or none, in their order.

        Raises as `one` does, and what `chunks` raises.
        """
        model, reader = context.model, context.model.reader
        answers: list[Scored] = []
        records: list[bytes] = []
        # Score each chunk before reading the next, while its rows are in the CPU cache.
        async for transactions in chunks:
            for transaction, probability in zip(
                transactions,
                model.scorer.score_many(reader.matrix(transactions)).tolist(),
                strict=True,
            ):
                scored, record = self._decide(context, transaction, probability)
                answers.append(scored)
                records.append(record)
        await self._audit.append_many(records)
        frauds = sum(scored.prediction for scored in answers)
        self._metrics.decided(frauds, len(answers) - frauds)
        return answers

    def _decide(
        self, context: ScoringContext | PendingRequest, transaction: Any, probability: float
    ) -> tuple[Scored, bytes]:
        """Return the answer and its encoded audit record."""
        model = context.model
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
            latency_ms=(perf_counter() - context.received) * 1000,
            pod=self._pod,
            request_id=context.request_id or identifier,
            transaction_id=transaction_id,
            entity_key=entity_key,
            client=context.client,
        )
        return Scored(identifier, probability, prediction, model.version, model.threshold), encode(
            record
        )
