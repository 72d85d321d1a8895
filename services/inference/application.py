"""The composition root of one worker: builds every object and connects them."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from fraudops.settings import InferenceSettings
from fraudops.state import State
from services.inference.audit.takeover import HandoverReceiver
from services.inference.audit.writers import Audit, audit_of
from services.inference.failures import FailureLog
from services.inference.http import openapi
from services.inference.http.admin_auth import Admin
from services.inference.http.endpoints import endpoints
from services.inference.http.fast_path import FastPath
from services.inference.http.metrics_page import PodCollector
from services.inference.http.middleware import RequestMiddleware
from services.inference.http.pages import PAGES, add_pages
from services.inference.http.peer_routes import add_peer_routes
from services.inference.metrics import Metrics
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.poller import Poller
from services.inference.pod.record_reader import record_reader, template_target
from services.inference.pod.state import read_pod_state
from services.inference.pod.status import Status
from services.inference.pod.worker import Drain, Worker
from services.inference.pod.worker_channel import Ask, RunFolder
from services.inference.pod.workers import Workers
from services.inference.refusals import RefusalCounter
from services.inference.scoring import Scoring

logger = logging.getLogger(__name__)


class InferenceApp(FastAPI):
    """The FastAPI application of one worker.

    Its OpenAPI document includes the calls that are answered below FastAPI's router. The HTTP
    protocol tries `fast_path` first.
    """

    def __init__(self, worker: Worker, fast_path: FastPath, **options: Any) -> None:
        self.worker, self.fast_path = worker, fast_path
        # Disable FastAPI's own telemetry: the service sends nothing without a setting.
        super().__init__(
            title="fraudops",
            telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
            **options,
        )

    def openapi(self) -> dict[str, Any]:
        serving = self.worker.serving
        return openapi.describe(super().openapi(), serving.model if serving else None)


def create_app(settings: InferenceSettings, drain: Drain) -> InferenceApp:
    """Build a worker's application; call it after the fork.

    The worker registers with its pod when the application starts.
    """
    state = State.at(settings.state)
    metrics, run = Metrics(state.metrics), RunFolder(state.run)
    worker = Worker(state.bundles, metrics, drain)
    audit = audit_of(settings, state, metrics)
    pod = PodCoordinator(
        state,
        Workers(run, settings.workers),
        BundleCache(state.bundles, run, settings.signing.public_keys_of(state)),
        record_reader(settings),
        template_target(settings),
        metrics.bundle_refused,
    )
    status = Status(
        pod,
        settings.pod,
        settings.model_name,
        settings.audit.durability,
        drain,
        settings.ready_without_model,
    )
    poller = Poller(pod, metrics, settings.record_poll_seconds)
    scoring = Scoring(audit, metrics, settings.pod, settings.audit.protection())
    refusals = RefusalCounter(audit, metrics, settings.pod, settings.model_name)
    failures = FailureLog()
    app = InferenceApp(
        worker,
        FastPath(worker, scoring, audit, metrics, drain, failures),
        lifespan=lambda _app: _life(worker, audit, run, pod, poller, refusals, failures),
    )
    app.add_middleware(
        RequestMiddleware,
        worker=worker,
        endpoints=endpoints(worker, scoring, audit, pod, status, refusals),
        pages=PAGES,
        metrics=metrics,
        drain=drain,
        admin=Admin(
            settings.admin_token.get_secret_value().encode() if settings.admin_token else None,
            settings.admin_port,
        ),
        failures=failures,
    )
    add_pages(
        app,
        status,
        state.metrics,
        PodCollector(lambda: len(run.registered()), state.spool, settings.workers),
    )
    add_peer_routes(
        app,
        state.bundles,
        HandoverReceiver(
            state.spool, settings.audit.spool_max_bytes, lambda: _refusal(worker, drain)
        ),
    )
    return app


def _refusal(worker: Worker, drain: Drain) -> str | None:
    """Return why this pod accepts no handover now, or None."""
    if drain.active:
        return "this pod is shutting down too"
    return None if worker.serving else "this pod serves no model yet"


@asynccontextmanager
async def _life(
    worker: Worker,
    audit: Audit,
    run: RunFolder,
    pod: PodCoordinator,
    poller: Poller,
    refusals: RefusalCounter,
    failures: FailureLog,
) -> AsyncIterator[None]:
    """Register the worker, load the pod's model, and run the tasks until shutdown."""
    # Register before reading the state file. A promotion that commits in between then either
    # finds this worker registered or has already written the file.
    listener = await run.serve(worker.answer)
    audit.open()
    now = read_pod_state(pod.state)
    if now.target:
        reply = await worker.answer(
            Ask(op="activate", target=now.target, source=now.source or "cache")
        )
        if reply.error:
            logger.error("the worker starts without the pod's model", extra={"reason": reply.error})
    polling = asyncio.create_task(poller.run())
    polling.add_done_callback(_end_with)
    counting = asyncio.create_task(refusals.run())
    yield
    for task in (polling, counting):
        task.cancel()
    await asyncio.gather(polling, counting, return_exceptions=True)
    await refusals.flush()
    listener.close()
    run.forget(os.getpid())
    failures.close()
    await audit.close()


def _end_with(polling: "asyncio.Task[None]") -> None:
    """Stop the worker if the poller failed: it would miss every later promotion."""
    if not polling.cancelled() and (error := polling.exception()):
        logger.error("the poller has failed; this worker is replaced", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)
