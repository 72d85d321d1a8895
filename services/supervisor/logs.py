"""The parts' log files: appended to by the parts themselves, kept within bounds from outside, so
that nobody has to reopen a file.
"""

import os
import shutil
from pathlib import Path

MAX_BYTES = 8 << 20
TAIL = 6
GRAVE = ("FATAL:", "Error:", "error:", '"level":"error"')


def bound(folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Moves the content of every log that has outgrown the bound to NAME.log.1 and begins it anew:
    at most twice the bound each.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size > max_bytes:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def last_words(log: Path, max_characters: int = 300) -> str:
    """What a program that has ended said of it: its last line that is called fatal or an error,
    else its last line; '' when there is none.
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
    last = lines[-TAIL:]
    return next(
        (line for line in reversed(last) if any(word in line for word in GRAVE)),
        last[-1] if last else "",
    )[:max_characters]
