"""gunicorn with uvicorn's workers, configured in code only.

There is no control socket, no command line and no configuration file.
"""

import asyncio
import gc
import os
import resource
import signal
import sys
import time
from functools import partial
from types import FrameType
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from fraudops import logs
from fraudops.settings import InferenceSettings
from fraudops.state import State
from services.inference.application import InferenceApp, create_app
from services.inference.http.connections import GRACE_SECONDS
from services.inference.http.protocol import HttpProtocol
from services.inference.pod import startup
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.bundle_verifier import BundleVerifier
from services.inference.pod.worker import Drain
from services.inference.pod.worker_channel import RunFolder

HUNG_SECONDS = 30


class JsonLogger(Logger):  # type: ignore[misc]
    """Formats the log lines of gunicorn and uvicorn like those of the product."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(logs.JsonFormatter("inference"))


class InferenceServer(BaseApplication):  # type: ignore[misc]
    """The gunicorn application of the service.

    `lifeline` is a pipe. Only the master holds its write end, so its children read end-of-file
    when the master dies, even by SIGKILL.
    """

    def __init__(self, settings: InferenceSettings, run: RunFolder) -> None:
        self.settings, self.drain, self.lifeline = settings, Drain(), os.pipe()
        self.verifier = BundleVerifier(settings, run, self.lifeline)
        super().__init__()

    def run(self) -> None:
        InferenceArbiter(self).run()

    def load_config(self) -> None:
        settings = self.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        options: dict[str, Any] = {
            "bind": [f"{host}:{port}" for port in (settings.port, settings.admin_port) if port],
            "workers": settings.workers,
            "worker_class": InferenceWorker,
            "logger_class": JsonLogger,
            "loglevel": settings.log_level,
            "errorlog": "-",
            "accesslog": None,
            "timeout": HUNG_SECONDS,
            "graceful_timeout": settings.graceful_timeout_seconds,
            "control_socket_disable": True,
            "proc_name": "fraudops-inference",
            "post_fork": lambda _arbiter, _worker: self._leave_master(),
            "child_exit": lambda _arbiter, worker: self._forget(worker.pid),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> InferenceApp:
        """Build the application; gunicorn calls this in each worker after the fork."""
        return create_app(self.settings, self.drain)

    def _leave_master(self) -> None:
        """Close, in a worker, the file descriptors that only the master may hold."""
        os.close(self.lifeline[1])
        self.verifier.leave()

    def _forget(self, pid: int) -> None:
        state = State.at(self.settings.state)
        mark_process_dead(pid, str(state.metrics))
        (state.run / f"worker-{pid}.sock").unlink(missing_ok=True)


class InferenceArbiter(Arbiter):  # type: ignore[misc]
    """The gunicorn master; it also restarts the bundle verifier."""

    def manage_workers(self) -> None:
        self.app.verifier.keep(self._close_listeners)
        super().manage_workers()

    def _close_listeners(self) -> None:
        for listener in self.LISTENERS:
            listener.close()


class InferenceWorker(UvicornWorker):  # type: ignore[misc]
    """A worker that drains on SIGTERM and stops when the master dies."""

    CONFIG_KWARGS = {
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "on",
        "server_header": False,
        "proxy_headers": False,
    }

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = self.app.settings
        self._drain_seconds = min(settings.drain_seconds, settings.graceful_timeout_seconds / 2)
        self.config.timeout_graceful_shutdown = max(
            1, int(settings.graceful_timeout_seconds - self._drain_seconds) - 1
        )

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        parts = self.wsgi.parts
        # A part of the time in which uvicorn waits for the connections to close.
        parts.connections.grace_seconds = min(
            GRACE_SECONDS, self.config.timeout_graceful_shutdown / 2
        )
        # uvicorn calls this for every connection and adds its own arguments.
        self.config.http = partial(HttpProtocol, parts)
        server = DrainingServer(self.config, self.app.drain, self._drain_seconds)
        loop, lifeline = asyncio.get_running_loop(), self.app.lifeline[0]

        def orphaned() -> None:
            # At end-of-file the pipe stays readable, which would call this again and again.
            loop.remove_reader(lifeline)
            server.stop()

        loop.add_signal_handler(signal.SIGQUIT, server.stop)
        loop.add_reader(lifeline, orphaned)
        try:
            await server.serve(sockets=self.sockets)
        finally:
            if not server.started:
                sys.exit(self._failure())

    def _failure(self) -> int:
        """Return the exit code of a worker that cannot start.

        With WORKER_BOOT_ERROR gunicorn stops the whole service. While other workers serve, it
        must only start a new worker instead.
        """
        others = [
            path
            for path in State.at(self.app.settings.state).run.glob("worker-*.sock")
            if path.name != f"worker-{os.getpid()}.sock"
        ]
        return 1 if others else Arbiter.WORKER_BOOT_ERROR


class DrainingServer(Server):
    """A server that drains its connections on SIGTERM.

    For `seconds` each answer carries `Connection: close`. If the server stopped immediately, it
    would cut off clients that are about to send on an idle connection. Afterwards it accepts no
    connection, and gives those that the drain did not reach GRACE_SECONDS more.
    """

    def __init__(self, config: Any, drain: Drain, seconds: float) -> None:
        super().__init__(config)
        self._drain, self._seconds = drain, seconds
        self._leave_at = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and self._leave_at == float("inf"):
            self._drain.begin()
            self._leave_at = time.monotonic() + self._seconds
        else:
            self.should_exit = True

    def stop(self) -> None:
        """Stop without draining; requests that have started are still answered."""
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)


def serve(settings: InferenceSettings) -> None:
    """Run the service until it is stopped; the process then exits."""
    # The workers inherit the limit. Its soft value is 1,024 in most environments.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Exclude the imported modules from garbage collection. A collection in a forked process
    # would write to their memory pages and so copy them.
    gc.freeze()
    gc.enable()
    state = State.at(settings.state)
    run = RunFolder(state.run)
    server = InferenceServer(settings, run)
    server.verifier.keep()
    cache = BundleCache(state.bundles, run, settings.signing.public_keys_of(state))
    startup.settle(settings, state, cache, server.verifier)
    server.run()
