"""A file that is read again when it changes, such as one of a mounted Secret."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from fraudops.errors import SettingsError

logger = logging.getLogger(__name__)
Content = TypeVar("Content")
Identity = tuple[int, int, int, int]


class WatchedFile(Generic[Content]):
    """The last good content of a file.

    `read` raises SettingsError for a file that cannot be used. The first reading raises it too.
    """

    def __init__(self, path: Path, read: Callable[[Path], Content]) -> None:
        self._path, self._read = path, read
        # Before the content: what changes in between is then another file at the next look.
        self._seen = _identity(path)
        self.content = read(path)
        self._fault = ""

    def changed(self) -> bool:
        """Read the file again if it is another one, and return whether there is new content.

        A file that cannot be used is tried again at each call, and logged once.
        """
        seen = _identity(self._path)
        if seen == self._seen and not self._fault:
            return False
        try:
            content = self._read(self._path)
        except SettingsError as error:
            if str(error) != self._fault:
                logger.error(
                    "a file for the clients cannot be used; what was read before stays valid",
                    extra={"reason": str(error)},
                )
            self._seen, self._fault = seen, str(error)
            return False
        self._seen, self._fault, self.content = seen, "", content
        logger.info("a file for the clients was read again", extra={"file": str(self._path)})
        return True


def _identity(path: Path) -> Identity | None:
    """Return what differs after a change, or None if there is no file.

    Kubelet replaces a symbolic link on the way to the file, so this is the file's own identity.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
