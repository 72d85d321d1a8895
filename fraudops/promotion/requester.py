"""Who asked for an act, and what proves the name."""

from dataclasses import dataclass

AUTOMATION = "automation"
# The names of Kubernetes' own components and of ServiceAccounts begin so; no person's does.
SYSTEM = "system:"


@dataclass(frozen=True)
class Requester:
    """Who asked for an act.

    `name` is what a list shows: a user, or `automation`. `actor` is the name that the API server
    or the operating system has for it, and None if it is unknown. `authenticated` means that an
    admission policy of the cluster has compared the name with the caller's credentials.
    """

    name: str
    actor: str | None
    authenticated: bool = False

    @property
    def identity(self) -> str:
        """The most exact name that is known, for a signed statement."""
        return self.actor or self.name


def requester_of(annotated: str | None, policy: bool, user: str) -> Requester:
    """Return who asked.

    `annotated` is the name on the Job: None outside of a Job, and empty on a Job without a name.
    `policy` says that the cluster refuses a Job with a false name. `user` is the operating
    system's user, whose name proves nothing.
    """
    if annotated is None:
        return Requester(user, user)
    if not annotated or annotated.startswith(SYSTEM):
        # A name that is missing cannot be proven.
        return Requester(AUTOMATION, annotated or None, policy and bool(annotated))
    return Requester(annotated, annotated, policy)
