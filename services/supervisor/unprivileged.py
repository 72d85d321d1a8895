"""Runs a command without being root, in any folder that root can reach: PostgreSQL refuses to run
as root.

Run as a file (`python -I -S unprivileged.py MODE UID GID COMMAND…`) with the standard library
only, so that it costs little; it becomes the command, under the same pid. The modes:

`namespace`  a user namespace in which root has another number. Outside of it the process still owns root's files, so folders that only root
             may enter stay as they are.
`capability` another uid that keeps the right to pass through and read what root can, and nothing else of root's. For containers that allow
             no user namespaces; what it writes to must belong to that uid.

`COMMAND` may be `--can-use FOLDER PROGRAM`: exit 0 if, in that mode, the folder can be written
to and the program started.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

CLONE_NEWUSER = 0x10000000
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP = 28, 1 << 2
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2

libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def enter_namespace(uid: int, gid: int) -> None:
    """Root becomes `uid`:`gid` in a namespace of its own.

    Raises OSError where the kernel or the container forbids it.
    """
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _check(libc.unshare(CLONE_NEWUSER), "unshare")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def keep_reading(uid: int, gid: int) -> None:
    """Becomes `uid`:`gid` with one capability left, which the command inherits.

    Raises OSError when root has it not.
    """
    wanted = [
        capability
        for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE)
        if _permitted() >> capability & 1
    ][:1]
    # PostgreSQL looks for its own program by access(2), for which the kernel ignores the
    # capabilities of every uid but 0, unless this bit is set. Setting it takes CAP_SETPCAP.
    # Without it `--can-use` finds the program out of reach in a folder of mode 0700.
    libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    _check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    mask = sum(1 << capability for capability in wanted)
    # With the bit above the change of uid drops no capability: the others go here.
    _check(
        libc.capset(
            ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)),
            (_Sets * 2)(_Sets(mask, mask, mask), _Sets()),
        ),
        "capset",
    )
    for capability in wanted:
        _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0), "prctl")


MODES: dict[str, Callable[[int, int], None]] = {
    "namespace": enter_namespace,
    "capability": keep_reading,
}


def _permitted() -> int:
    sets = (_Sets * 2)()
    _check(libc.capget(ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), sets), "capget")
    return int(sets[0].permitted)


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _can_use(folder: str, program: str) -> int:
    probe = Path(folder) / f".probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
        # As PostgreSQL asks: with the real ids. With the effective ids the kernel counts
        # capabilities that it ignores when PostgreSQL asks.
        usable = os.access(program, os.R_OK | os.X_OK)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not usable:
        sys.stderr.write(f"{program} cannot be run: check its mode and the folders above it\n")
    return 0 if usable else 1


def main() -> NoReturn:
    mode, uid, gid, *command = sys.argv[1:]
    try:
        MODES[mode](int(uid), int(gid))
    except OSError as error:
        sys.stderr.write(f"{mode}: {error}\n")
        sys.exit(126)
    if command[0] == "--can-use":
        sys.exit(_can_use(*command[1:]))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
