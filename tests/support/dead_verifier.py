"""A program whose first fork dies immediately.

Run `python -m tests.support.dead_verifier MODULE`. The first process that the inference service
forks is its bundle verifier.
"""

import os
import runpy
import sys

fork = os.fork


def fork_a_dead_process() -> int:
    os.fork = fork
    pid = fork()
    if pid == 0:
        os._exit(1)
    return pid


if __name__ == "__main__":
    os.fork = fork_a_dead_process
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
