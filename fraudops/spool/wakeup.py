"""Wake-up of the shipper through a named pipe, for a worker that waits for PostgreSQL.

A lost wake-up costs only latency: the shipper polls as well.
"""

import contextlib
import os
import stat
from pathlib import Path

NAME = "shipper.bell"


class WakeupPipe:
    """The worker's end of the pipe."""

    def __init__(self, folder: Path) -> None:
        self._path, self._descriptor = folder / NAME, -1

    def notify(self) -> None:
        """Wake the shipper. Do nothing while no shipper listens."""
        try:
            if self._descriptor < 0:
                # Without O_NONBLOCK, opening waits until a shipper opens the other end.
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._descriptor, b"\0")
        except BlockingIOError:
            return  # The pipe is full of wake-ups that the shipper has not read yet.
        except OSError:
            # No shipper has the pipe open. The next call tries to open it again.
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def open_wakeup_pipe(folder: Path) -> int:
    """Open the shipper's end of the pipe, for reads that do not block.

    Raises OSError, also when a file of that name is not a pipe.
    """
    path = folder / NAME
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    # Open for writing too: without a writer, a read would report the end of the file.
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(f"{path} is not a named pipe: delete it and start the shipper again")
    return descriptor
