"""The user that PostgreSQL runs as: ours, or an unprivileged one when we are root."""

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
    """A user to run PostgreSQL as.

    `wrapper` is put in front of a command, which then runs as this user.
    `owner` and `group` are the ids that its files must have, as seen outside its user namespace.
    """

    wrapper: tuple[str, ...]
    owner: int
    group: int

    def wrap(self, *command: str) -> tuple[str, ...]:
        return (*self.wrapper, *command)

    def adopt(self, folder: Path) -> None:
        """Change the owner of the folder and its content to this identity.

        The last run may have used another identity. Raises SettingsError when we may not change
        the owner.
        """
        if folder.stat().st_uid == self.owner:
            return
        try:
            # The folder comes last: its owner tells the next run whether all of it was changed.
            for path in (*folder.rglob("*"), folder):
                os.chown(path, self.owner, self.group, follow_symlinks=False)
        except PermissionError as error:
            raise SettingsError(
                f"{folder} belongs to another user: run as that user, or name another folder "
                "with --state"
            ) from error


def choose_identity(folder: Path, program: Path) -> Identity:
    """Return the first identity that can write below `folder` and start `program`.

    Raises SettingsError when there is none.
    """
    obstacles = []
    for candidate in candidates():
        reason = obstacle(candidate, folder, program)
        if reason is None:
            return candidate
        obstacles.append(reason)
    raise SettingsError(
        "PostgreSQL refuses to run as root, and here root can neither open a user namespace nor "
        f"become another user ({'; '.join(obstacles)}): run as another user, with an "
        "installation and a state folder (--state) that this user can reach"
    )


def candidates() -> list[Identity]:
    """Return the possible identities, best first."""
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
    """Return the account `nobody`, or any account except root.

    initdb requires that its uid has a name. Raises SettingsError when root is the only account.
    """
    accounts = {account.pw_name: account for account in pwd.getpwall() if account.pw_uid != 0}
    if not accounts:
        raise SettingsError(
            "PostgreSQL refuses to run as root, and /etc/passwd has no other user: run as "
            "another user"
        )
    return accounts.get("nobody") or next(iter(accounts.values()))


def obstacle(identity: Identity, folder: Path, program: Path) -> str | None:
    """Return why the identity cannot work in a subfolder of `folder` that it owns, or None."""
    if not identity.wrapper:
        return None
    # Tried for real: what a container permits depends on its capabilities, seccomp and mounts.
    probe = folder / f".probe-{os.getpid()}"
    probe.mkdir(mode=0o700)
    try:
        os.chown(probe, identity.owner, identity.group)
        result = subprocess.run(
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
    if result.returncode == 0:
        return None
    messages = result.stderr.strip().splitlines()
    return messages[-1] if messages else f"{program} cannot be started"
