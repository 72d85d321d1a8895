"""Sign a waiver: the permission to promote one version once without a passing verdict.

In the cluster this is a step before `promote`. It gets the same arguments, and it alone has the key
for waivers. So a promotion cannot waive the gates for itself. Without `--force` nothing is signed.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from fraudops import endpoints
from fraudops.errors import RefusedError, SettingsError
from fraudops.files import write_atomically
from fraudops.promotion.requester import requester_of
from fraudops.registry import Registry
from fraudops.settings import PromoteJobSettings
from fraudops.signing.keys import read_private_key
from fraudops.signing.waivers import WAIVERS_FORBIDDEN, Waiver, sign_waiver
from fraudops.state import State
from jobs.runner import notices, run, state_option, user_name

# A promotion may wait for an approval. Each retry of its Job signs a new waiver.
VALID_FOR = timedelta(hours=24)


@dataclass(frozen=True)
class WaiverOptions:
    """The version whose gates are waived, why, by whom, and for which promotion request."""

    version: str
    reason: str
    who: str
    request: str


def signed_waiver(settings: PromoteJobSettings, state: State, options: WaiverOptions) -> str:
    """Return the signed waiver for the bundle that the version has now.

    Raises RefusedError if this installation forbids waivers, UnknownVersionError, StoreDownError,
    or SettingsError for a key that cannot be read.
    """
    if settings.signing.waivers == "forbidden":
        raise RefusedError(WAIVERS_FORBIDDEN)
    key = read_private_key(settings.signing.waiver_key_of(state))
    version = Registry(endpoints.mlflow_url(state), settings.model_name).find(options.version)
    if version.digest is None:
        raise RefusedError(
            f"version {version.version} carries no bundle of fraudops; "
            "train one with `fraudops train`"
        )
    now = datetime.now(UTC)
    waiver = Waiver(
        model_name=settings.model_name,
        version=version.version,
        digest=version.digest,
        reason=options.reason,
        who=options.who,
        request=options.request,
        expires_at=now + VALID_FOR,
        at=now.isoformat(timespec="seconds"),
    )
    return sign_waiver(waiver, key)


# The arguments are those of `promote`. It runs next and refuses the ones that it does not know.
@click.command(name="waive", context_settings={"ignore_unknown_options": True})
@click.option("--version", required=True, metavar="N", help="The version, or `latest`.")
@click.option("--force", is_flag=True, help="Sign. Without it the command does nothing.")
@click.option("--reason", metavar="TEXT", help="Why the gates are waived.")
@click.option(
    "--out",
    envvar="FRAUDOPS_WAIVER",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="File for the signed waiver. [env: FRAUDOPS_WAIVER]",
)
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
@state_option
def command(
    version: str, force: bool, reason: str | None, out: Path, rest: tuple[str, ...], state: State
) -> str:
    """Sign a waiver for one promotion request, which is that of the Job.

    On one machine `fraudops promote --force --reason TEXT` does this itself.
    """
    if not force:
        return "no --force: nothing is waived"
    settings = PromoteJobSettings.from_environment()
    if not (reason or "").strip():
        raise SettingsError("--force needs --reason TEXT: the waiver names the reason")
    if settings.request_id is None:
        raise SettingsError(
            "a waiver is for one promotion request, and FRAUDOPS_REQUEST_ID is not set: "
            "run `fraudops promote --force --reason TEXT`"
        )
    who = requester_of(settings.requested_by, settings.promotion.authenticated, user_name())
    options = WaiverOptions(version, str(reason), who.identity, settings.request_id)
    write_atomically(out, signed_waiver(settings, state, options).encode())
    line = f"a waiver of version {version} is signed for the request {settings.request_id}"
    notices.print(line, markup=False)
    return line


if __name__ == "__main__":
    run(command)
