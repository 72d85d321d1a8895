"""The pod's own status: /ready, /model_info, and the answer of /reload."""

import asyncio
from collections.abc import Sequence
from typing import Literal

import msgspec

from fraudops.errors import BundleError, FraudopsError, StoreDownError
from fraudops.model.manifest import Manifest, read_manifest
from fraudops.promotion.pod_rules import PodState, destination
from fraudops.promotion.serving_record import ServingRecord
from fraudops.signing.kept import KeptCredentials, read_kept
from fraudops.state import State
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.state import RecordView, read_pod_state, read_record_view
from services.inference.pod.worker import Drain
from services.inference.pod.worker_channel import WorkerAnswer, WorkerShown
from services.inference.pod.worker_states import WorkerStates

ALIAS = "production"


class NotReadyError(StoreDownError):
    """The pod cannot answer; `workers` is what each worker serves, as /ready shows it."""

    def __init__(self, reason: str, workers: Sequence[WorkerShown] | None = None) -> None:
        super().__init__(reason)
        self.workers = workers


class Ready(msgspec.Struct, frozen=True):
    """Every worker has the promoted model open.

    `version` and `digest` are null in a pod that is ready before the first promotion.
    """

    status: Literal["ready"]
    epoch: int
    version: str | None
    digest: str | None
    workers: list[WorkerShown]


class Reloaded(msgspec.Struct, frozen=True):
    """What the pod and each of its workers serve now."""

    pod: str
    epoch: int
    version: str | None
    digest: str | None
    workers: list[WorkerShown]


class ShownCredentials(msgspec.Struct, frozen=True):
    """Why the pod opened the bundle: the signed statements that it has verified.

    `signer` is the id of the key of the verdict. `waived_by` and `waiver_reason` are null unless a
    signed waiver replaced a passing verdict.
    """

    state: Literal["signed", "waived", "unsigned, from before"]
    signer: str | None
    waived_by: str | None
    waiver_reason: str | None


class ServedModel(msgspec.Struct, frozen=True):
    """The served model; `source` is where its bundle came from: registry, peer or cache.

    A model that was `trained_on_sample` knows nothing of a bank's transactions. It and
    `schema_fingerprint` come from the bundle's manifest. They and `credentials` are null without a
    model, or when the cache has lost the bundle since the worker opened it.
    """

    name: str
    alias: str
    version: str | None
    digest: str | None
    epoch: int
    source: str | None
    trained_on_sample: bool | None
    schema_fingerprint: str | None
    credentials: ShownCredentials | None


class ModelInfo(msgspec.Struct, frozen=True):
    """The served model, and what is wrong with it.

    `audit` is the durability of the answers' records: off, memory, spool or commit. `errors.epoch`
    is present while the pod does not serve what the serving record names.
    """

    model: ServedModel
    audit: str
    challenger: None
    errors: dict[str, str | None]


class Status:
    """What the pod serves, read from its files and from its workers.

    With `ready_without_model` the pod is ready while no model has ever been promoted.
    """

    def __init__(
        self,
        pod: PodCoordinator,
        name: str,
        model_name: str,
        durability: str,
        drain: Drain,
        ready_without_model: bool = False,
    ) -> None:
        self._pod, self._name, self._model_name, self._durability, self._drain = (
            pod,
            name,
            model_name,
            durability,
            drain,
        )
        self._ready_without_model = ready_without_model
        self._workers = WorkerStates(pod.workers)
        self._reading: asyncio.Task[ServingRecord] | None = None

    async def ready(self) -> Ready:
        """Raises NotReadyError with the reason."""
        now, view = read_pod_state(self._pod.state), read_record_view(self._pod.state)
        workers = await self._workers.of(now)
        shown = [worker.shown for worker in workers]
        if self._drain.active:
            reason: str | None = "the pod is leaving: it drains"
        elif self._ready_without_model and _lacks_nothing(now, view):
            reason = next((worker.fault for worker in workers if worker.fault), None)
        else:
            reason = _why_not(now, view, workers)
        if reason:
            raise NotReadyError(reason, shown)
        return Ready("ready", now.epoch, now.version, now.digest, shown)

    async def is_ready(self) -> bool:
        try:
            await self.ready()
        except NotReadyError:
            return False
        return True

    async def reloaded(self) -> Reloaded:
        now, workers = read_pod_state(self._pod.state), await self._pod.workers.states()
        return Reloaded(
            self._name, now.epoch, now.version, now.digest, [worker.shown for worker in workers]
        )

    async def model_info(self) -> ModelInfo:
        now = read_pod_state(self._pod.state)
        manifest = await asyncio.to_thread(_manifest, self._pod.state, now.digest)
        credentials = await asyncio.to_thread(_credentials, self._pod.state, now)
        model = ServedModel(
            name=self._model_name,
            alias=ALIAS,
            version=now.version,
            digest=now.digest,
            epoch=now.epoch,
            source=now.source,
            trained_on_sample=manifest.dataset.sample if manifest else None,
            schema_fingerprint=manifest.schema_fingerprint if manifest else None,
            credentials=credentials,
        )
        errors: dict[str, str | None] = {"alias": None, "stage": None}
        try:
            record = await self._record()
        except FraudopsError as error:
            errors["epoch"] = str(error)
        else:
            errors["alias"] = record.alias_error
            target = destination(record, self._pod.template)
            epoch = target.epoch if target else 0
            reason = read_record_view(self._pod.state).error
            if reason or epoch != now.epoch:
                errors["epoch"] = (
                    reason or f"the serving record is at epoch {epoch}, this pod at {now.epoch}"
                )
        return ModelInfo(model, self._durability, None, errors)

    async def _record(self) -> ServingRecord:
        """Read the record once for all requests that wait for it.

        Each read holds a thread while the store does not answer. Audit and metrics need threads
        too.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._pod.record())
        return await asyncio.shield(self._reading)

    def why_no_model(self) -> str:
        """Return the reason for a worker that must score and serves no model."""
        return (
            _why_not(read_pod_state(self._pod.state), read_record_view(self._pod.state), [])
            or "this worker is still opening the model"
        )


def _manifest(state: State, digest: str | None) -> Manifest | None:
    try:
        return read_manifest(state.bundles / digest, digest) if digest else None
    except BundleError:
        return None


def _credentials(state: State, now: PodState) -> ShownCredentials | None:
    """Return what the verifier kept of the credentials that it accepted."""
    try:
        kept = read_kept(state.bundles, now.digest) if now.digest else None
    except OSError:
        return None
    return _shown(kept) if kept and kept.version == now.version else None


def _shown(kept: KeptCredentials) -> ShownCredentials:
    how: Literal["signed", "waived", "unsigned, from before"] = "signed"
    if kept.unsigned:
        how = "unsigned, from before"
    elif kept.waived_by is not None:
        how = "waived"
    return ShownCredentials(how, kept.signer, kept.waived_by, kept.waiver_reason)


def _lacks_nothing(now: PodState, view: RecordView) -> bool:
    """Whether the pod serves nothing because no model has ever been promoted.

    The poller wrote the view when it last looked. An activation may have given the pod a model
    since then.
    """
    return view.without_model and now.target is None and now.epoch == 0


def _why_not(now: PodState, view: RecordView, workers: list[WorkerAnswer]) -> str | None:
    """Return why the pod is not ready, or None when it is."""
    reasons = "; ".join(dict.fromkeys(reason for reason in (view.refused, view.error) if reason))
    if now.target is None:
        return reasons or (
            f"version {view.target.version} is being opened" if view.target else "no model promoted"
        )
    for worker in workers:
        if fault := worker.fault:
            return fault
        if worker.reply and worker.reply.target != now.target:
            epoch = worker.shown.epoch
            return reasons or f"worker {worker.pid} is at epoch {epoch}, the pod at {now.epoch}"
    if not view.ready:
        return reasons or "the pod is starting"
    return None
