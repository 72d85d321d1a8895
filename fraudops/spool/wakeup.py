"""How a worker that waits for PostgreSQL wakes the shipper at once: a byte in a named pipe.

Lost rings cost time only, for the shipper looks by itself too.
"""

import contextlib
import os
import stat
from pathlib import Path

NAME = "shipper.bell"


class WakeupPipe:
    """The worker's end."""

    def __init__(self, folder: Path) -> None:
        self._path, self._descriptor = folder / NAME, -1

    def notify(self) -> None:
        """Without a shipper that listens nothing happens."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._descriptor, b"\0")
        except BlockingIOError:
            return  # It is full of rings that were not heard yet.
        except OSError:
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def open_wakeup_pipe(folder: Path) -> int:
    """The shipper's end, to be read without waiting.

    It is open for writing too, so that its end never seems to have come. Raises OSError.
    """
    path = folder / NAME
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(f"{path} is no pipe")
    return descriptor
