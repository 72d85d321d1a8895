"""The parts' log files: appended to by the parts themselves, kept within bounds from outside, so that nobody has to reopen a file."""

import os
import shutil
from pathlib import Path

MAX_BYTES = 8 << 20


def bound(folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Moves the content of every log that has outgrown the bound to NAME.log.1 and begins it anew: at most twice the bound each."""
    for log in folder.glob("*.log"):
        if log.stat().st_size > max_bytes:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def last_line(log: Path, max_characters: int = 300) -> str:
    """The last line that says something; '' when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    return next((line[-max_characters:] for line in reversed(lines) if line), "")
