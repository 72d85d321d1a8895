"""The components' log files.

Each component appends to its own file. The supervisor truncates large files from outside, so no
component has to reopen its log.
"""

import os
import shutil
from pathlib import Path

MAX_BYTES = 8 << 20
TAIL_LINES = 6
ERROR_MARKS = ("FATAL:", "Error:", "error:", '"level":"error"')


def truncate_large_logs(folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Move the content of every log above `max_bytes` to NAME.log.1 and empty the log.

    A log and its copy together take at most about twice `max_bytes`.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size > max_bytes:
            # Copied, not renamed: the component holds the file open, and would go on writing to
            # the renamed one. It appends, so it continues at the start of the emptied file.
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def last_error_line(log: Path, max_characters: int = 300) -> str:
    """Return the most likely reason why a program ended.

    That is the last of its final lines that is marked as an error, else its last line. Returns ''
    for an empty or unreadable log.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = [
                line.strip()
                for line in file.read().decode(errors="replace").splitlines()
                if line.strip()
            ]
    except OSError:
        return ""
    tail = lines[-TAIL_LINES:]
    return next(
        (line for line in reversed(tail) if any(mark in line for mark in ERROR_MARKS)),
        tail[-1] if tail else "",
    )[:max_characters]
