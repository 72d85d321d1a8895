"""The process of a pod that fetches and verifies bundles.

It is forked before the workers with all imports loaded, and forks again for each bundle.

So no worker pays for a download or a proof, and no proof for its imports, which were nine tenths
of its processor time. One JSON line is asked on a socket in the run folder, one is answered.
Whoever hangs up ends the proof.
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
from typing import NoReturn

import msgspec

from fraudops import logs
from fraudops.errors import FraudopsError
from fraudops.settings import InferenceSettings
from fraudops.state import State
from services.inference.pod.bundle_fetch import fetch_bundle
from services.inference.pod.worker_channel import RunFolder

logger = logging.getLogger(__name__)
PROGRAM = "inference.prover"
NICE = 10
AGAIN_SECONDS = ASK_SECONDS = 1.0
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
    """A version's bundle; without `fetch` only what is in the cache is proved."""

    version: str
    digest: str
    fetch: bool = True


class VerificationOutcome(msgspec.Struct, omit_defaults=True):
    """`source` where the bundle came from, or `error` with its exit code."""

    source: str | None = None
    error: str | None = None
    exit_code: int = 0


@dataclass(frozen=True)
class Verification:
    """A running verification: its client, its process, and a pipe that is readable at its end."""

    connection: socket.socket
    pid: int
    handle: int

    def end(self) -> None:
        """It is no more when this returns."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.handle)
        self.connection.close()


class BundleVerifier:
    """The verifier process, as its parent, the gunicorn master, sees it.

    The master holds the listener, so requests wait if the process must be started again.

    `lifeline` is the master's pipe: who reads its end knows that the master has died.
    """

    def __init__(
        self, settings: InferenceSettings, run: RunFolder, lifeline: tuple[int, int]
    ) -> None:
        self._settings, self._lifeline = settings, lifeline
        self._bundles = State.at(settings.state).bundles
        self._listener = run.listen_for_verifications()
        self._pid: int | None = None
        self._tried = float("-inf")

    def keep(self, leave: Callable[[], None] = lambda: None) -> None:
        """Starts it, or another when it has died, at most one a second.

        `leave` closes what the new process must not hold.
        """
        if self._pid is not None and not self.lives():
            logger.error(
                "the process that proves bundles has died and is replaced", extra={"pid": self._pid}
            )
            self._pid = None
        if self._pid is not None or time.monotonic() - self._tried < AGAIN_SECONDS:
            return
        self._tried = time.monotonic()
        try:
            self._pid = os.fork()
        except OSError as error:
            logger.error("bundles cannot be proved now", extra={"reason": error.strerror})
            return
        if self._pid == 0:
            _live(partial(self._serve, leave))

    def lives(self) -> bool:
        return self._pid is not None and _lives(self._pid)

    def leave(self) -> None:
        """In a worker, after its fork."""
        self._listener.close()

    def _serve(self, leave: Callable[[], None]) -> None:
        leave()
        logs.configure(self._settings.log_level, PROGRAM)
        lifeline = self._lifeline[0]
        os.close(self._lifeline[1])
        # It goes with the master, not before.
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        verifications: list[Verification] = []
        while True:
            # Nothing more is said on a connection: one that can be read was hung up.
            waiting = [
                self._listener.fileno(),
                lifeline,
                *(
                    part
                    for verification in verifications
                    for part in (verification.handle, verification.connection.fileno())
                ),
            ]
            ready = frozenset(select.select(waiting, [], [])[0])
            for verification in [
                verification
                for verification in verifications
                if lifeline in ready
                or not ready.isdisjoint((verification.handle, verification.connection.fileno()))
            ]:
                verifications.remove(verification)
                verification.end()
            if lifeline in ready:
                return
            if self._listener.fileno() in ready and (begun := self._begin()):
                verifications.append(begun)

    def _begin(self) -> Verification | None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return None
        try:
            connection.settimeout(ASK_SECONDS)
            wanted = msgspec.json.decode(connection.makefile("rb").readline(), type=BundleRequest)
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
            _live(partial(self._answer, connection, wanted))
        os.close(held)
        return Verification(connection, pid, handle)

    def _answer(self, connection: socket.socket, wanted: BundleRequest) -> None:
        # Proving takes as long as it takes; the workers beside it answer.
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
        try:
            outcome = VerificationOutcome(
                source=fetch_bundle(
                    self._settings, self._bundles, wanted.version, wanted.digest, fetch=wanted.fetch
                )
            )
        except FraudopsError as error:
            outcome = VerificationOutcome(
                error=str(error)[:LONGEST_REASON], exit_code=error.exit_code
            )
        connection.sendall(msgspec.json.encode(outcome) + b"\n")


def _live(work: Callable[[], None]) -> NoReturn:
    """All that a forked process does, to its end."""
    code = 1
    try:
        work()
        code = 0
    except Exception as error:
        # The boundary of a process: what it raises is told, and never goes on in the code that it
        # was forked from.
        logger.error("a process that proves bundles has failed", exc_info=error)
    finally:
        os._exit(code)


def _give_up(error: Exception, *descriptors: int) -> None:
    logger.error("a bundle cannot be proved now", extra={"reason": str(error)})
    for descriptor in descriptors:
        os.close(descriptor)


def _lives(pid: int) -> bool:
    """gunicorn may have taken its end before us."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False
