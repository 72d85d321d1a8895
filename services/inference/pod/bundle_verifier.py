"""The process of a pod that fetches and verifies bundles.

The gunicorn master forks it before the workers, with all imports loaded. It forks again for each
bundle. So no worker spends time on a download or a verification, and no verification spends time
on imports, which took nine tenths of its processor time.

A worker connects to a socket in the run folder and sends one JSON line. The answer is one line
too. A worker that closes the connection ends the verification.
"""

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NoReturn

import msgspec

from fraudops import logs
from fraudops.errors import BundleError, FraudopsError, SignatureRefusedError
from fraudops.settings import InferenceSettings
from fraudops.signing.credentials import Credentials
from fraudops.signing.kept import load_cryptography
from fraudops.state import State
from services.inference.pod.bundle_fetch import fetch_bundle
from services.inference.pod.worker_channel import RunFolder

logger = logging.getLogger(__name__)
# Operators filter the log by this name, which release 0.2.0 has too.
PROGRAM = "inference.prover"
NICE = 10
RESTART_SECONDS = REQUEST_SECONDS = 1.0
LONGEST_REASON = 4000
HANDLED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
)


class BundleRequest(msgspec.Struct, frozen=True):
    """The bundle of a version; without `fetch` only a cached bundle is verified.

    `credentials` are those of the serving record. None: the record could not be read.
    """

    version: str
    digest: str
    fetch: bool = True
    credentials: tuple[Credentials, ...] | None = ()


class VerificationOutcome(msgspec.Struct, omit_defaults=True):
    """`source` is where the bundle came from; otherwise `error` has an exit code.

    `refused` says what was wrong: the signed statements, or the content of the bundle.
    """

    source: str | None = None
    error: str | None = None
    exit_code: int = 0
    refused: Literal["", "signature", "bundle"] = ""


@dataclass(frozen=True)
class Verification:
    """A running verification: its client, its process, and a pipe that is readable at its end."""

    connection: socket.socket
    pid: int
    handle: int

    @property
    def descriptors(self) -> tuple[int, int]:
        """The descriptors of which one can be read when the verification must end.

        The client sends nothing more, so a readable connection is a closed one.
        """
        return self.handle, self.connection.fileno()

    def end(self) -> None:
        """Kill the process, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.handle)
        self.connection.close()


class BundleVerifier:
    """The verifier process, as its parent, the gunicorn master, sees it.

    The master holds the listener, so requests wait while the process is replaced.

    `lifeline` is the master's pipe. Its read end shows that the master has died.
    """

    def __init__(
        self, settings: InferenceSettings, run: RunFolder, lifeline: tuple[int, int]
    ) -> None:
        self._settings, self._lifeline = settings, lifeline
        self._bundles = State.at(settings.state).bundles
        self._listener = run.listen_for_verifications()
        self._pid: int | None = None
        self._started = float("-inf")

    def keep(self, leave: Callable[[], None] = lambda: None) -> None:
        """Start the process, or replace a dead one, at most once a second.

        `leave` closes what the new process must not hold.
        """
        if self._pid is not None and not self.is_alive():
            logger.error(
                "the process that verifies bundles has died and is replaced",
                extra={"pid": self._pid},
            )
            self._pid = None
        if self._pid is not None or time.monotonic() - self._started < RESTART_SECONDS:
            return
        self._started = time.monotonic()
        try:
            self._pid = os.fork()
        except OSError as error:
            logger.error("bundles cannot be verified now", extra={"reason": error.strerror})
            return
        if self._pid == 0:
            _run_forked(partial(self._serve, leave))

    def is_alive(self) -> bool:
        return self._pid is not None and _is_alive(self._pid)

    def leave(self) -> None:
        """Close the listener in a worker, after its fork."""
        self._listener.close()

    def _serve(self, leave: Callable[[], None]) -> None:
        """Answer requests until the master dies."""
        leave()
        logs.configure(self._settings.log_level, PROGRAM)
        lifeline, listener = self._lifeline[0], self._listener.fileno()
        # With the write end open, this process would never see the master die.
        os.close(self._lifeline[1])
        # A signal to the whole group stops the workers. This process ends after the master.
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Each verification is forked from here. The master reads the record during this import.
        load_cryptography()
        running: list[Verification] = []
        while True:
            known = [descriptor for each in running for descriptor in each.descriptors]
            ready = frozenset(select.select([listener, lifeline, *known], [], [])[0])
            for verification in list(running):
                if lifeline in ready or not ready.isdisjoint(verification.descriptors):
                    running.remove(verification)
                    verification.end()
            if lifeline in ready:
                return
            if listener in ready and (started := self._start()):
                running.append(started)

    def _start(self) -> Verification | None:
        """Accept a request and fork the process that answers it."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return None
        try:
            connection.settimeout(REQUEST_SECONDS)
            request = msgspec.json.decode(connection.makefile("rb").readline(), type=BundleRequest)
            handle, held = os.pipe()
        except (OSError, msgspec.MsgspecError) as error:
            _give_up(error, connection.detach())
            return None
        try:
            pid = os.fork()
        except OSError as error:
            _give_up(error, connection.detach(), handle, held)
            return None
        if pid == 0:
            _run_forked(partial(self._answer, connection, request))
        # Only the child holds the pipe's write end now, so the pipe ends with the child.
        os.close(held)
        return Verification(connection, pid, handle)

    def _answer(self, connection: socket.socket, request: BundleRequest) -> None:
        # A verification may be slow; the workers, which answer clients, must not be.
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        try:
            source = fetch_bundle(
                self._settings,
                self._bundles,
                request.version,
                request.digest,
                credentials=request.credentials,
                fetch=request.fetch,
            )
        except FraudopsError as error:
            outcome = _failed(error)
            if outcome.refused:
                logger.error(
                    "a bundle is refused",
                    extra={
                        "version": request.version,
                        "digest": request.digest,
                        "reason": outcome.error,
                    },
                )
        else:
            outcome = VerificationOutcome(source=source)
        connection.sendall(msgspec.json.encode(outcome) + b"\n")


def _failed(error: FraudopsError) -> VerificationOutcome:
    refused: Literal["", "signature", "bundle"] = ""
    if isinstance(error, SignatureRefusedError):
        refused = "signature"
    elif isinstance(error, BundleError):
        refused = "bundle"
    return VerificationOutcome(
        error=str(error)[:LONGEST_REASON], exit_code=error.exit_code, refused=refused
    )


def _run_forked(work: Callable[[], None]) -> NoReturn:
    """Do the work of a forked process, and end the process."""
    code = 1
    try:
        work()
        code = 0
    except Exception as error:
        # The boundary of a process. An error that went on would run the code that this process
        # was forked from.
        logger.error("a process that verifies bundles has failed", exc_info=error)
    finally:
        os._exit(code)


def _give_up(error: Exception, *descriptors: int) -> None:
    logger.error("a bundle cannot be verified now", extra={"reason": str(error)})
    for descriptor in descriptors:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        # gunicorn waits for every child, and may have waited for this one first.
        return False
