"""One worker's models: the one that it serves and those that it has prepared.

Every change of the served model passes the same check here.
"""

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path

from fraudops.errors import FraudopsError
from fraudops.promotion.pod_rules import PodState, check_step, keeps_prepared, replaces_prepared
from fraudops.promotion.serving_record import ServingTarget
from services.inference.metrics import Metrics
from services.inference.model import LoadedModel, Serving, open_model
from services.inference.pod.worker_channel import Ask, Reply


class Drain:
    """Whether the pod drains: every answer then carries `Connection: close`.

    So clients reconnect to other pods before this pod stops.
    """

    def __init__(self) -> None:
        self.active = False

    def begin(self) -> None:
        self.active = True


@dataclass(frozen=True)
class Prepared:
    """A model that the worker has opened next to the one that it serves, until `expiry`."""

    target: ServingTarget
    model: LoadedModel
    source: str
    expiry: asyncio.TimerHandle


class Worker:
    """The models of one worker process.

    Each request reads `serving` once. `activate` replaces it whole.
    """

    def __init__(self, bundles: Path, metrics: Metrics, drain: Drain) -> None:
        self.serving: Serving | None = None
        self._bundles, self._metrics, self._drain = bundles, metrics, drain
        self._previous: Serving | None = None
        self._prepared: dict[str, Prepared] = {}
        # Two changes of the models must not run together: both wait for a thread.
        self._turn = asyncio.Lock()

    async def answer(self, ask: Ask) -> Reply:
        """Carry out an operation. The reply names a refusal, and nothing is raised."""
        try:
            if ask.op == "drain":
                self._drain.begin()
            elif ask.target:
                await self._change(ask, ask.target)
        except FraudopsError as error:
            # A file that cannot be read at all, unlike an altered one, may be readable later.
            return self._reply(str(error), temporary=isinstance(error.__cause__, OSError))
        except OSError as error:
            return self._reply(f"its bundle cannot be read ({error.strerror})", temporary=True)
        return self._reply(None)

    async def _change(self, ask: Ask, target: ServingTarget) -> None:
        if ask.op == "prepare":
            await self.prepare(target, ask.source, ask.seconds)
        elif ask.op == "activate":
            await self.activate(target, ask.source)
        elif ask.op == "drop":
            self.drop(target)

    async def prepare(self, target: ServingTarget, source: str, seconds: float) -> None:
        """Open and warm up a verified bundle next to the served one, and keep it for `seconds`.

        Raises BundleError.
        """
        async with self._turn:
            model = await self._open(target)
            known = self._prepared.get(target.digest)
            if known and not replaces_prepared(target, known.target):
                return
            self._discard(target.digest)
            expiry = asyncio.get_running_loop().call_later(seconds, self._discard, target.digest)
            self._prepared[target.digest] = Prepared(target, model, source, expiry)

    async def activate(self, target: ServingTarget, source: str) -> None:
        """Serve the target; requests that have started keep their model.

        Raises RefusedError.
        """
        async with self._turn:
            before = self.serving
            check_step(_pod_state(before), target)
            if before and before.target == target:
                return
            model = await self._open(target)
            # Two versions may have the same bundle, which is open under the name of the first.
            self.serving = Serving(target, replace(model, version=target.version), source)
            if before and before.target.digest != target.digest:
                self._previous = before
            now = _pod_state(self.serving)
            for prepared in list(self._prepared.values()):
                if not keeps_prepared(prepared.target, now):
                    self._discard(prepared.target.digest)
            self._metrics.serves(target, model.sample)

    def drop(self, target: ServingTarget) -> None:
        """Drop the prepared model, unless a later promotion has prepared it."""
        known = self._prepared.get(target.digest)
        if known and replaces_prepared(target, known.target):
            self._discard(target.digest)

    def _discard(self, digest: str) -> None:
        if prepared := self._prepared.pop(digest, None):
            prepared.expiry.cancel()

    async def _open(self, target: ServingTarget) -> LoadedModel:
        if model := self._opened(target.digest):
            return model
        return await asyncio.to_thread(
            open_model, self._bundles / target.digest, target.version, target.digest
        )

    def _opened(self, digest: str) -> LoadedModel | None:
        """Return the model if it is open already: served, prepared, or served just before."""
        held = [known.model for known in (self.serving, self._previous) if known] + [
            prepared.model for prepared in self._prepared.values()
        ]
        return next((model for model in held if model.digest == digest), None)

    def _reply(self, error: str | None, temporary: bool = False) -> Reply:
        return Reply(
            pid=os.getpid(),
            target=self.serving.target if self.serving else None,
            prepared={digest: prepared.source for digest, prepared in self._prepared.items()},
            draining=self._drain.active,
            error=error,
            temporary=temporary,
        )


def _pod_state(serving: Serving | None) -> PodState:
    """Return what the worker serves in the form that the pod's rules take."""
    return PodState().serving(serving.target, serving.source) if serving else PodState()
