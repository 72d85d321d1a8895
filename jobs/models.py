"""`fraudops models`: the versions of the registry and which of them serves."""

import asyncio
from typing import Any

import click
from rich.table import Table

from fraudops.errors import StoreDownError
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import ModelVersion
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.terminal import print_table
from fraudops.wiring import open_promotion_context
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, notices, output, print_json, run, say, state_option


def verdict_of(version: ModelVersion) -> str:
    """Return `passed`, `refused`, `waived`, `stale` (the verdict of another bundle) or `none`."""
    if version.waiver and version.waiver.get("digest") == version.digest:
        return "waived"
    if version.verdict is None:
        return "none"
    if version.verdict.get("digest") != version.digest:
        return "stale"
    return "passed" if version.verdict.get("passed") else "refused"


def describe(version: ModelVersion, record: ServingRecord) -> dict[str, Any]:
    """Return the object that `--json` prints for one version.

    `back` is the number of rollbacks that lead to this version, or None.
    """
    serving = bool(record.current and record.current.version == version.version)
    return {
        "version": version.version,
        "created_at": version.created_at,
        "digest": version.digest,
        "verdict": verdict_of(version),
        "aliases": list(version.aliases),
        "serving": serving,
        "back": next(
            (
                steps
                for steps, entry in enumerate(record.stack, start=1)
                if entry.version == version.version
            ),
            None,
        ),
    }


async def _read(
    settings: PromoteJobSettings, state: State
) -> tuple[ServingRecord, list[ModelVersion] | StoreDownError]:
    """Return the serving record, and the versions or the registry's error."""
    async with open_promotion_context(settings, state, say) as context:
        record, _ = await context.records.read()
        try:
            return record, context.registry.versions()
        except StoreDownError as error:
            return record, error


@on_cluster("promote", "jobs.models")
@click.command(name="models")
@json_option
@state_option
def command(as_json: bool, state: State) -> None:
    """List versions with aliases, verdicts and the number of rollbacks that lead to each."""
    settings = PromoteJobSettings.from_environment()
    record, versions = asyncio.run(_read(settings, state))
    if isinstance(versions, StoreDownError):
        serving = (
            f"version {record.current.version} serves (epoch {record.epoch})"
            if record.current
            else "no model serves"
        )
        notices.print(
            f"The registry is unavailable. According to the serving record {serving}. "
            "`fraudops rollback` works without the registry."
        )
        raise versions
    rows = [describe(version, record) for version in versions]
    if as_json:
        print_json({"model": settings.model_name, "epoch": record.epoch, "versions": rows})
    elif not rows:
        output.print("No version is registered yet. Train one: fraudops train")
    else:
        print_table(output, _table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "version", "created", "digest", "verdict", "aliases", "serves", box=None, pad_edge=False
    )
    for row in rows:
        back = f"{row['back']} back" if row["back"] else ""
        table.add_row(
            row["version"],
            row["created_at"][:19].replace("T", " "),
            (row["digest"] or "no bundle")[:12],
            row["verdict"],
            ", ".join(row["aliases"]),
            "[bold green]yes[/]" if row["serving"] else back,
        )
    return table


if __name__ == "__main__":
    run(command)
