"""`fraudops approve JOB`: the second user's consent to a promotion that waits for it."""

import asyncio
import shlex

import click

from fraudops.errors import SettingsError
from fraudops.promotion.approval import REQUESTED_BY
from fraudops.terminal import one_line
from jobs.runner import any_state_option, json_option, output, print_json, run


async def approve_job(namespace: str | None, name: str, confirm: bool) -> tuple[str, str]:
    """Approve the Job as the caller, and return the caller's name and what the Job runs.

    With `confirm` the caller is asked first. Raises RefusedError, SettingsError, ForbiddenError.
    """
    from fraudops.cluster.api import Cluster
    from fraudops.cluster.identity import (
        annotations_of,
        approve,
        caller,
        check_approvable,
        command_of,
        job_named,
    )

    async with Cluster.connect(namespace) as cluster:
        user = await caller(cluster)
        job = await job_named(cluster, name)
        check_approvable(job, user)
        # The requester chose these words, and must not write the approver's question.
        what = one_line(shlex.join(command_of(job)))
        if confirm:
            requester = one_line(annotations_of(job).get(REQUESTED_BY) or "a controller")
            click.confirm(f"{requester} runs `{what}`. Approve as {user}?", abort=True, err=True)
        await approve(cluster, job, user)
        return user, what


@click.command(name="approve")
@click.argument("job")
@click.option("--yes", is_flag=True, help="Approve without a question.")
@click.option(
    "--namespace",
    envvar="FRAUDOPS_CLUSTER__NAMESPACE",
    metavar="NAME",
    help="The namespace of the Job. [default: the kubeconfig's]",
)
@json_option
@any_state_option
def command(job: str, yes: bool, namespace: str | None, as_json: bool) -> str:
    """Approve a promotion of another user, which waits in the Job JOB.

    Needs your own credentials for the cluster. A user cannot approve what the same user has
    started, and an approval cannot be taken back.
    """
    if as_json and not yes:
        raise SettingsError("--json needs --yes: standard output must hold only the object")
    user, what = asyncio.run(approve_job(namespace, job, confirm=not yes))
    message = f"{user} has approved Job {job}: {what}"
    if as_json:
        print_json({"job": job, "approved_by": user, "runs": what})
    else:
        output.print(message, markup=False)
    return message


if __name__ == "__main__":
    run(command)
