"""Run `python -m tests.support.stepped_clock MODULE`: its ids come from a wrong clock.

The file that STEPPED_CLOCK names holds the clock's error in seconds.

The machine's clock enters the audit only through the id: its milliseconds are the row's timestamp
and name its day. Latencies come from the monotonic clock.
"""

import os
import runpy
import sys
import time
from pathlib import Path

import uuid_utils

from fraudops import ids


def step(clock: Path, seconds: float) -> None:
    """Set the clock's error. A concurrent reader sees the old value or the new one."""
    unfinished = clock.with_suffix(".new")
    unfinished.write_text(str(seconds))
    unfinished.rename(clock)


def main() -> None:
    clock = Path(os.environ["STEPPED_CLOCK"])

    def uuid7() -> str:
        return str(
            uuid_utils.uuid7(nanoseconds=time.time_ns() + int(float(clock.read_text()) * 1e9))
        )

    # Replaced before another module can import the function by name.
    ids.uuid7 = uuid7
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
