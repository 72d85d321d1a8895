"""The composition root of one worker: builds every object and connects them."""

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from fraudops.settings import InferenceSettings
from fraudops.state import State
from services.inference.audit.takeover import HandoverReceiver
from services.inference.audit.writers import audit_of
from services.inference.failures import FailureLog
from services.inference.http import openapi
from services.inference.http.access_log import AccessLog
from services.inference.http.admin_auth import Admin
from services.inference.http.bodies import BodyBudget, Permits, Receive
from services.inference.http.client_auth.authenticator import Authenticator
from services.inference.http.connections import Connections
from services.inference.http.context import ServiceContext
from services.inference.http.cors import Cors
from services.inference.http.dispatch import Dispatcher, Send
from services.inference.http.exchange import Scope
from services.inference.http.fast_path import FastPath
from services.inference.http.metrics_page import PodCollector, render
from services.inference.http.protocol import WorkerParts
from services.inference.http.routes import ROUTES
from services.inference.http.unread_answers import UnreadAnswers
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
# Batches, and bodies with labels, that a worker works on at the same time. A batch at its limits
# takes about 50 MB with its rows, answers and records.
PERMITS = 2


@dataclass(frozen=True)
class InferenceApp:
    """The application of one worker: for the HTTP protocol, and for what uvicorn calls."""

    dispatcher: Dispatcher
    parts: WorkerParts
    life: Callable[[], AbstractAsyncContextManager[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.dispatcher(scope, receive, send)


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
    clients = Authenticator.of(settings.client_auth, metrics)
    collector = PodCollector(lambda: len(run.registered()), state.spool, settings.workers)
    context = ServiceContext(
        worker=worker,
        scoring=Scoring(audit, metrics, settings.pod, settings.audit.protection()),
        audit=audit,
        status=Status(
            pod,
            settings.pod,
            settings.model_name,
            settings.audit.durability,
            drain,
            settings.ready_without_model,
        ),
        pod=pod,
        receiver=HandoverReceiver(
            state.spool, settings.audit.spool_max_bytes, lambda: _refusal(worker, drain)
        ),
        bundles=state.bundles,
        refusals=RefusalCounter(audit, metrics, settings.pod, settings.model_name),
        clients=clients,
        failures=FailureLog(),
        drain=drain,
        metrics=metrics,
        permits={kind: Permits(kind, PERMITS, metrics) for kind in ("batches", "labels")},
        budget=BodyBudget(settings.http.body_bytes_in_flight),
        answers=UnreadAnswers(),
        limits=settings.http,
        metrics_page=partial(render, state.metrics, collector),
        document=openapi.Document(ROUTES, settings.http.root_path, clients.required),
    )
    token = settings.admin_token.get_secret_value().encode() if settings.admin_token else None
    parts = WorkerParts(
        fast_path=FastPath(worker, context.scoring, audit, metrics, drain, context.failures),
        connections=Connections(settings.http, metrics, _descriptors()),
        clients=clients,
        access_log=AccessLog(settings.http.access_log),
        failures=context.failures,
        admin=Admin(token, settings.admin_port),
        cors=bool(settings.http.cors_origins),
    )
    poller = Poller(pod, metrics, settings.record_poll_seconds)
    life = partial(_life, context, run, poller, parts.connections)
    dispatcher = Dispatcher(
        context,
        parts.admin,
        Cors(settings.http.cors_origins),
        parts.access_log,
        life,
    )
    return InferenceApp(dispatcher, parts, life)


def _descriptors() -> int:
    """Return how many files this process may open."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if most == resource.RLIM_INFINITY else most


def _refusal(worker: Worker, drain: Drain) -> str | None:
    """Return why this pod accepts no handover now, or None."""
    if drain.active:
        return "this pod is shutting down too"
    return None if worker.serving else "this pod serves no model yet"


@asynccontextmanager
async def _life(
    context: ServiceContext, run: RunFolder, poller: Poller, connections: Connections
) -> AsyncIterator[None]:
    """Register the worker, load the pod's model, and run the tasks until shutdown."""
    worker, audit, pod = context.worker, context.audit, context.pod
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
    runs = (poller.run, context.refusals.run, context.clients.run, connections.run)
    tasks = [asyncio.create_task(each(), name=each.__qualname__) for each in runs]
    for task in tasks:
        task.add_done_callback(end_with)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await context.refusals.flush()
    listener.close()
    run.forget(os.getpid())
    context.failures.close()
    await audit.close()


def end_with(task: "asyncio.Task[None]") -> None:
    """Stop the worker if a task failed.

    Without that task the worker would miss later promotions, keep removed keys valid, or hold
    connections for ever.
    """
    if not task.cancelled() and (error := task.exception()):
        logger.error(
            "a task of the worker has failed; this worker is replaced",
            exc_info=error,
            extra={"task": task.get_name()},
        )
        os.kill(os.getpid(), signal.SIGTERM)
