"""Run a command as a user other than root, because PostgreSQL refuses to run as root.

The command still reaches every folder that root can reach. This file is run as a script
(`python -I -S unprivileged.py MODE UID GID COMMAND…`). It imports only the standard library, so
that it starts quickly. It executes the command in its own process, so the pid stays the same.

MODE `namespace`: a user namespace in which root has another uid. Outside of the namespace the
process still owns root's files, so folders that only root may enter can stay as they are.

MODE `capability`: another uid that keeps one of root's rights, to enter folders and read files.
It is for containers that forbid user namespaces. Folders that it writes to must belong to the uid.

`COMMAND` may be `--can-use FOLDER PROGRAM`. It exits with 0 if, in that mode, the folder can be
written to and the program can be started.
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
    """Become `uid`:`gid` in a new user namespace.

    Raises OSError when the kernel or the container forbids it.
    """
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _check(libc.unshare(CLONE_NEWUSER), "unshare")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    # The kernel accepts a gid_map from an unprivileged process only after setgroups is denied.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def keep_read_access(uid: int, gid: int) -> None:
    """Become `uid`:`gid` with one capability, which the command inherits.

    Raises OSError when the process lacks the rights to change its ids and capabilities.
    """
    permitted = _permitted()
    # CAP_DAC_OVERRIDE also allows writing, so it is only the second choice.
    kept = [
        capability
        for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE)
        if permitted >> capability & 1
    ][:1]
    # PostgreSQL looks for its own program by access(2). For that call the kernel ignores the
    # capabilities of every uid except 0, unless this bit is set. Setting the bit needs
    # CAP_SETPCAP. Without the bit, `--can-use` refuses a program in a folder of mode 0700.
    libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    _check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    mask = sum(1 << capability for capability in kept)
    # With the bit above, the change of uid drops no capability. So the others are dropped here.
    _check(
        libc.capset(
            ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)),
            (_Sets * 2)(_Sets(mask, mask, mask), _Sets()),
        ),
        "capset",
    )
    # execv drops every capability that is not ambient.
    for capability in kept:
        _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0), "prctl")


MODES: dict[str, Callable[[int, int], None]] = {
    "namespace": enter_namespace,
    "capability": keep_read_access,
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
        # access(2) with the real ids, as PostgreSQL calls it. With the effective ids, the kernel
        # would count capabilities that it ignores for PostgreSQL.
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
