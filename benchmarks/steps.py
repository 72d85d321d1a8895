"""The steps of one answer, built from the service's own parts.

Each step is a function of a number that picks its row.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from uvicorn import Config
from uvicorn.server import ServerState

from benchmarks.models import BenchmarkModels
from benchmarks.protocols import TRANSACTION, TRANSACTIONS
from fraudops.audit.records import Prediction, decode, encode
from fraudops.ids import uuid7
from fraudops.model.scorer import open_scorer
from fraudops.settings import InferenceSettings
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.state import State

Step = Callable[[int], Any]
VARIED = 512


@dataclass(frozen=True)
class StepTimes:
    """The steps: `named` in the order of an answer, `batch` with `rows` rows per call."""

    named: dict[str, Step]
    batch: dict[str, Step]
    rows: int
    close: Callable[[], None]


def steps(models: BenchmarkModels, state: State) -> StepTimes:
    """Make the steps from the bundles in `models`.

    Spool and metrics use the state's folders. PROMETHEUS_MULTIPROC_DIR must name the metrics'
    folder.
    """
    from services.inference.metrics import Metrics
    from services.inference.model import open_model
    from services.inference.reading.rows import TRANSACTIONS as BATCH
    from services.inference.scoring import Scored, ScoredBatch

    model = open_model(models.folder / "linear", "1", models.digest("linear"))
    rows = models.x[:VARIED]
    bodies = [TRANSACTION.body(models.names, [row]) for row in rows.tolist()]
    read = [model.reader.read(body) for body in bodies]
    scored = [
        Scored(uuid7(), 0.01 / (index + 1), 0, "1", model.threshold) for index in range(VARIED)
    ]
    records = [
        _record(transaction, answer, model)
        for transaction, answer in zip(read, scored, strict=True)
    ]
    encoded = [encode(record) for record in records]
    writer = SpoolWriter(state.spool, "parts", SpoolOptions(max_bytes=8 << 30))
    trees = open_scorer(models.folder / "trees")
    metrics = Metrics(state.metrics)
    astuple, features, answer_encoder = (
        msgspec.structs.astuple,
        model.reader.features,
        msgspec.json.Encoder().encode,
    )
    body = TRANSACTIONS.body(models.names, rows.tolist())

    def count(_: int) -> None:
        metrics.answered("POST", "/predict", 200, 0.0004)
        metrics.decided(0, 1)

    named: dict[str, Step] = {
        "read and validate the JSON": lambda i: model.reader.read(bodies[i]),
        "score (linear)": lambda i: model.scorer.score(astuple(read[i])[:features]),
        "score (gradient boosting, ONNX)": lambda i: trees.score(astuple(read[i])[:features]),
        "id (UUIDv7)": lambda _: uuid7(),
        "audit record, made and encoded": lambda i: encode(_record(read[i], scored[i], model)),
        "append to the spool": lambda i: writer.append(encoded[i]),
        "count in the metrics": count,
        "answer, made and encoded": lambda i: answer_encoder(
            Scored(scored[i].prediction_id, 0.01, 0, "1", model.threshold)
        ),
    }
    batch: dict[str, Step] = {
        "read and validate the JSON": lambda _: [
            model.reader.read_list(piece) for piece in BATCH.pieces(body)
        ],
        "score (linear)": lambda _: model.scorer.score_many(model.reader.matrix(read)).tolist(),
        "score (gradient boosting, ONNX)": lambda _: trees.score_many(rows).tolist(),
        "id (UUIDv7)": lambda _: [uuid7() for _ in range(VARIED)],
        "audit record, made and encoded": lambda _: [
            encode(_record(row, answer, model)) for row, answer in zip(read, scored, strict=True)
        ],
        "append to the spool": lambda _: writer.append_many(encoded),
        "answer, encoded": lambda _: answer_encoder(ScoredBatch(scored)),
        "audit record, decoded by the shipper": lambda _: [decode(data) for data in encoded],
    }
    return StepTimes(named, batch, VARIED, writer.close)


def _record(transaction: Any, answer: Any, model: Any) -> Prediction:
    return Prediction(
        id=answer.prediction_id,
        features=transaction,
        fraud_probability=answer.fraud_probability,
        prediction=answer.prediction,
        threshold=answer.threshold,
        model_name=model.name,
        model_version=model.version,
        model_digest=model.digest,
        latency_ms=0.4,
        pod="parts",
        request_id=answer.prediction_id,
    )


def alternatives(models: BenchmarkModels) -> dict[str, Step]:
    """Make the steps that other services use in place of the product's."""
    import json

    import pandas as pd
    from pydantic import create_model

    from benchmarks.peers.pipeline import build
    from fraudops.model.pipeline_file import load_pipeline

    plain, trees = (
        build(models.plain, list(models.names)),
        load_pipeline(models.folder / "trees" / "pipeline.skops"),
    )
    array = build(models.plain)
    fields: dict[str, Any] = dict.fromkeys(models.names, (float, ...))
    transaction = create_model("Transaction", **fields)
    rows, names = models.x[:VARIED], list(models.names)
    bodies = [TRANSACTION.body(names, [row]) for row in rows.tolist()]
    mappings = [json.loads(body) for body in bodies]
    return {
        "json.loads": lambda i: json.loads(bodies[i]),
        "pydantic, model_validate_json": lambda i: transaction.model_validate_json(bodies[i]),
        "predict_proba of a DataFrame (logistic regression)": lambda i: plain.predict_proba(
            pd.DataFrame([mappings[i]])
        ),
        "predict_proba of an array (logistic regression)": lambda i: array.predict_proba(
            rows[i : i + 1]
        ),
        "predict_proba of an array (calibrated gradient boosting)": lambda i: trees.predict_proba(
            rows[i : i + 1]
        ),
    }


class Calls:
    """Complete requests, passed to the server's protocol as if read from a socket.

    The transport only keeps the answers.
    """

    def __init__(self, protocol: asyncio.Protocol, models: BenchmarkModels) -> None:
        self._requests = [
            _request(TRANSACTION.body(models.names, [row])) for row in models.x[:VARIED].tolist()
        ]
        self._protocol, self._transport, self.status = protocol, _Answers(), 0
        protocol.connection_made(self._transport)

    async def __call__(self, index: int) -> None:
        """Make one request; the answer arrives within one turn of the event loop."""
        self._protocol.data_received(self._requests[index])
        await asyncio.sleep(0)
        self.status = int(self._transport.written[9:12])
        self._transport.written = b""


class _Answers(asyncio.Transport):
    written = b""

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False


def _request(body: bytes) -> bytes:
    return (
        b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:8000\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )


@asynccontextmanager
async def application(models: BenchmarkModels, state: State) -> AsyncIterator[Calls]:
    """The service's whole application in this process.

    FRAUDOPS_STATE must name the state's folder, and PROMETHEUS_MULTIPROC_DIR its metrics' folder.
    """
    from services.inference.application import create_app
    from services.inference.folders import make_folders
    from services.inference.http.protocol import HttpProtocol
    from services.inference.pod import startup
    from services.inference.pod.bundle_cache import BundleCache
    from services.inference.pod.bundle_verifier import BundleVerifier
    from services.inference.pod.worker import Drain
    from services.inference.pod.worker_channel import RunFolder

    make_folders(state)
    settings, run, lifeline = InferenceSettings(state=state.root), RunFolder(state.run), os.pipe()
    verifier = BundleVerifier(settings, run, lifeline)
    verifier.keep()
    cache = BundleCache(state.bundles, run, settings.signing.public_keys_of(state))
    await asyncio.to_thread(startup.settle, settings, state, cache, verifier)
    app = create_app(settings, Drain())
    try:
        async with app.life():
            yield Calls(
                HttpProtocol(
                    app.parts,
                    config=Config(app, log_config=None),
                    server_state=ServerState(),
                    app_state={},
                ),
                models,
            )
    finally:
        os.close(lifeline[1])
