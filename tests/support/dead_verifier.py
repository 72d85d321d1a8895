"""Runs a module whose first forked process dies at once: `python -m tests.support.dead_verifier MODULE`.

The inference service forks its prover first.
"""

import os
import runpy
import sys

fork = os.fork


def die() -> int:
    os.fork = fork
    pid = fork()
    if pid == 0:
        os._exit(1)
    return pid


if __name__ == "__main__":
    os.fork = die
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
