"""One worker's models: the one that it serves and those that it has prepared.

Every change of the served model passes the same check here.
"""

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path

from fraudops.errors import FraudopsError, RefusedError
from services.inference.metrics import Metrics
from services.inference.model import LoadedModel, Serving, open_model
from services.inference.pod.worker_channel import Ask, Reply


class Drain:
    """While it is active every answer carries `Connection: close`, so that clients leave by
    themselves.
    """

    def __init__(self) -> None:
        self.active = False

    def begin(self) -> None:
        self.active = True


@dataclass(frozen=True)
class Prepared:
    model: LoadedModel
    epoch: int
    source: str
    expiry: asyncio.TimerHandle


def check_step(epoch: int, digest: str | None, next_epoch: int, next_digest: str) -> None:
    """Epochs never go down, and one epoch is one model. Raises RefusedError."""
    if next_epoch < epoch:
        raise RefusedError(f"epoch {next_epoch} is behind epoch {epoch}, which is served already")
    if next_epoch == epoch and digest is not None and next_digest != digest:
        raise RefusedError(f"epoch {epoch} is served already, with another model")


class Worker:
    """`serving` is read once by each request and swapped whole; everything else waits its turn."""

    def __init__(self, bundles: Path, metrics: Metrics, drain: Drain) -> None:
        self.serving: Serving | None = None
        self._bundles, self._metrics, self._drain = bundles, metrics, drain
        self._previous: Serving | None = None
        self._prepared: dict[str, Prepared] = {}
        self._turn = asyncio.Lock()

    async def answer(self, ask: Ask) -> Reply:
        """Carries an operation out; a refusal is told, not raised."""
        try:
            if ask.op == "prepare":
                await self.prepare(ask)
            elif ask.op == "activate":
                await self.activate(ask)
            elif ask.op == "drop":
                self.drop(ask.digest)
            elif ask.op == "drain":
                self._drain.begin()
        except (FraudopsError, OSError) as error:
            return self._reply(
                str(error)
                if isinstance(error, FraudopsError)
                else f"its bundle cannot be read ({error.strerror})"
            )
        return self._reply(None)

    async def prepare(self, ask: Ask) -> None:
        """Opens and warms a verified bundle beside the served one, until the deadline.

        Raises BundleError.
        """
        async with self._turn:
            model = await self._opened(ask)
            self.drop(ask.digest)
            expiry = asyncio.get_running_loop().call_later(ask.seconds, self.drop, ask.digest)
            self._prepared[ask.digest] = Prepared(model, ask.epoch, ask.source, expiry)

    async def activate(self, ask: Ask) -> None:
        """Serve the model in the epoch; requests that have started keep their model.

        Raises RefusedError.
        """
        async with self._turn:
            now = self.serving
            check_step(
                now.epoch if now else 0, now.model.digest if now else None, ask.epoch, ask.digest
            )
            if now and now.epoch == ask.epoch:
                return
            model = await self._opened(ask)
            self.serving = Serving(ask.epoch, replace(model, version=ask.version), ask.source)
            if now and now.model.digest != ask.digest:
                self._previous = now
            for digest in [
                digest
                for digest, prepared in self._prepared.items()
                if prepared.epoch <= ask.epoch or digest == ask.digest
            ]:
                self.drop(digest)
            self._metrics.serves(ask.epoch, ask.version, model.sample)

    def drop(self, digest: str) -> None:
        if prepared := self._prepared.pop(digest, None):
            prepared.expiry.cancel()

    async def _opened(self, ask: Ask) -> LoadedModel:
        if warm := self._warm(ask.digest):
            return warm
        return await asyncio.to_thread(
            open_model, self._bundles / ask.digest, ask.version, ask.digest
        )

    def _warm(self, digest: str) -> LoadedModel | None:
        """The model if it is open already: served, prepared, or served just before."""
        held = [known.model for known in (self.serving, self._previous) if known] + [
            prepared.model for prepared in self._prepared.values()
        ]
        return next((model for model in held if model.digest == digest), None)

    def _reply(self, error: str | None) -> Reply:
        serving = self.serving
        warm = {digest: prepared.source for digest, prepared in self._prepared.items()}
        return Reply(
            pid=os.getpid(),
            epoch=serving.epoch if serving else 0,
            version=serving.model.version if serving else None,
            digest=serving.model.digest if serving else None,
            warm=warm,
            draining=self._drain.active,
            error=error,
        )
