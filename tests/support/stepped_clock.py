"""`python -m tests.support.stepped_clock MODULE` runs the module with ids from a clock that is off by the
seconds in the file that STEPPED_CLOCK names.

Where the machine's clock enters the audit is the id: its millisecond is the row's timestamp and
names its day. Latencies are of the monotonic clock.
"""

import os
import runpy
import sys
import time
from pathlib import Path

import uuid_utils

from fraudops import ids


def step(clock: Path, seconds: float) -> None:
    """In one moment, whoever reads meanwhile."""
    unfinished = clock.with_suffix(".new")
    unfinished.write_text(str(seconds))
    unfinished.rename(clock)


def main() -> None:
    clock = Path(os.environ["STEPPED_CLOCK"])

    def uuid7() -> str:
        return str(
            uuid_utils.uuid7(nanoseconds=time.time_ns() + int(float(clock.read_text()) * 1e9))
        )

    # Before anything else takes it by name.
    ids.uuid7 = uuid7
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
