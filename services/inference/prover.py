"""The process that brings and proves bundles: one a pod, forked before the workers with everything imported, forks itself again for each bundle.

So no worker pays for a download or a proof, and no proof for imports, which were nine tenths of its processor time. One JSON line is asked on a
socket in the run folder, one is answered. Whoever hangs up ends the proof.
"""

import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import NoReturn

import msgspec

from fraudops import logs
from fraudops.errors import FraudopsError
from fraudops.settings import InferenceSettings
from fraudops.state import State
from services.inference.channel import RunFolder
from services.inference.prepare import bring

logger = logging.getLogger(__name__)
PROGRAM = "inference.prover"
NICE = 10
HANDLED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)


class Wanted(msgspec.Struct, frozen=True):
    """A version's bundle; without `fetch` only what is in the cache is proved."""

    version: str
    digest: str
    fetch: bool = True


class Outcome(msgspec.Struct, omit_defaults=True):
    """`source` where the bundle came from, or `error` with its exit code."""

    source: str | None = None
    error: str | None = None
    exit_code: int = 0


class Prover:
    """Belongs to the master, which holds the listener: what is asked while there is no prover waits for the next one.

    `lifeline` is the master's pipe: who reads its end knows that the master has died.
    """

    def __init__(self, settings: InferenceSettings, run: RunFolder, lifeline: tuple[int, int]) -> None:
        self._settings, self._lifeline = settings, lifeline
        self._bundles = State.at(settings.state).bundles
        self._listener = run.listen_for_proofs()
        self._pid: int | None = None

    def keep(self, leave: Callable[[], None] = lambda: None) -> None:
        """Starts it, or another when it has died. `leave` closes what the new process must not hold."""
        if self._pid is not None:
            if _lives(self._pid):
                return
            logger.error("the process that proves bundles has died and is replaced", extra={"pid": self._pid})
        self._pid = os.fork()
        if self._pid == 0:
            try:
                leave()
                self._serve()
            except BaseException:
                logger.exception("the process that proves bundles has failed")
            finally:
                os._exit(1)

    def leave(self) -> None:
        """In a worker, after its fork."""
        self._listener.close()

    def _serve(self) -> NoReturn:
        logs.configure(self._settings.log_level, PROGRAM)
        os.close(self._lifeline[1])
        # It goes with the master, not before; its own children are nobody's concern.
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            if self._lifeline[0] in select.select([self._listener.fileno(), self._lifeline[0]], [], [])[0]:
                os._exit(0)
            try:
                connection, _ = self._listener.accept()
                with connection:
                    if os.fork() == 0:
                        self._answer(connection)
            except OSError as error:
                logger.error("a bundle cannot be proved now", extra={"reason": error.strerror})

    def _answer(self, connection: socket.socket) -> NoReturn:
        """In a process of its own, whose end is the call's."""
        try:
            # Proving takes as long as it takes; the workers beside it answer.
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
            wanted = msgspec.json.decode(connection.makefile("rb").readline(), type=Wanted)
            threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
            try:
                outcome = Outcome(source=bring(self._settings, self._bundles, wanted.version, wanted.digest, fetch=wanted.fetch))
            except FraudopsError as error:
                outcome = Outcome(error=str(error), exit_code=error.exit_code)
            connection.sendall(msgspec.json.encode(outcome) + b"\n")
            os._exit(0)
        except BaseException:
            logger.exception("a bundle was not proved")
        finally:
            os._exit(1)


def _end_with(connection: socket.socket) -> None:
    connection.recv(1)
    os._exit(1)


def _lives(pid: int) -> bool:
    """gunicorn may have taken its end before us."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False
