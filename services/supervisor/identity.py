"""As whom PostgreSQL runs: as we do, or, when we are root, in a way that it accepts."""

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fraudops.errors import SettingsError
from services.supervisor import unprivileged

LAUNCHER = Path(unprivileged.__file__)


@dataclass(frozen=True)
class Identity:
    """`wrapper` goes before a command;

    `owner` is the uid (seen from here) that its files must have.
    """

    wrapper: tuple[str, ...]
    owner: int
    group: int

    def wrap(self, *command: str) -> tuple[str, ...]:
        return (*self.wrapper, *command)

    def adopt(self, folder: Path) -> None:
        """Gives a folder of ours, and all in it, to this identity: the last run may have had
        another. Raises SettingsError when it is not ours to give.
        """
        if folder.stat().st_uid == self.owner:
            return
        try:
            for path in (*folder.rglob("*"), folder):
                os.chown(path, self.owner, self.group, follow_symlinks=False)
        except PermissionError as error:
            raise SettingsError(
                f"{folder} belongs to another user: run as that user, or name another folder with --state"
            ) from error


def choose_identity(folder: Path, program: Path) -> Identity:
    """The first identity that can write below `folder` and start `program`.

    Raises SettingsError when there is none.
    """
    obstacles = []
    for candidate in candidates():
        what = obstacle(candidate, folder, program)
        if what is None:
            return candidate
        obstacles.append(what)
    raise SettingsError(
        f"PostgreSQL refuses to run as root, and here root can neither open a user namespace nor "
        f"become another user ({'; '.join(obstacles)}): run as another user, with an "
        "installation and a state folder (--state) that this user can reach"
    )


def candidates() -> list[Identity]:
    """In order of preference."""
    if os.geteuid() != 0:
        return [Identity((), os.geteuid(), os.getegid())]
    account = _unprivileged_account()
    uid, gid = str(account.pw_uid), str(account.pw_gid)
    launcher = (sys.executable, "-I", "-S", str(LAUNCHER))
    return [
        Identity((*launcher, "namespace", uid, gid), 0, os.getegid()),
        Identity((*launcher, "capability", uid, gid), account.pw_uid, account.pw_gid),
    ]


def _unprivileged_account() -> pwd.struct_passwd:
    """`nobody`, or any account but root: initdb wants its uid to have a name."""
    accounts = {account.pw_name: account for account in pwd.getpwall() if account.pw_uid != 0}
    if not accounts:
        raise SettingsError(
            "PostgreSQL refuses to run as root, and /etc/passwd names nobody else: run as another user"
        )
    return accounts.get("nobody") or next(iter(accounts.values()))


def obstacle(identity: Identity, folder: Path, program: Path) -> str | None:
    """None if the identity can work in a subfolder of `folder` that belongs to it; else what stands
    in the way.
    """
    if not identity.wrapper:
        return None
    probe = folder / f".probe-{os.getpid()}"
    probe.mkdir(mode=0o700)
    try:
        os.chown(probe, identity.owner, identity.group)
        done = subprocess.run(
            [*identity.wrapper, "--can-use", str(probe), str(program)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except OSError as error:
        return str(error)
    finally:
        probe.rmdir()
    return (
        None
        if done.returncode == 0
        else (done.stderr.strip().splitlines() or [f"{program} cannot be started"])[-1]
    )
