"""The registry's versions beside what really serves."""

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
from jobs.promote import say
from jobs.runner import json_option, notices, output, print_json, run, state_option


def verdict_of(version: ModelVersion) -> str:
    """`passed`, `refused`, `waived`, `stale` (for another bundle) or `none`."""
    if version.waiver and version.waiver.get("digest") == version.digest:
        return "waived"
    if version.verdict is None:
        return "none"
    if version.verdict.get("digest") != version.digest:
        return "stale"
    return "passed" if version.verdict.get("passed") else "refused"


def describe(version: ModelVersion, record: ServingRecord) -> dict[str, Any]:
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
                steps + 1
                for steps, entry in enumerate(record.stack)
                if entry.version == version.version
            ),
            None,
        ),
    }


@on_cluster("promote", "jobs.models")
@click.command(name="models")
@json_option
@state_option
def command(as_json: bool, state: State) -> None:
    """Versions, aliases and verdicts, and the way back."""
    settings = PromoteJobSettings.from_environment()

    async def read() -> tuple[ServingRecord, list[ModelVersion] | StoreDownError]:
        async with open_promotion_context(settings, state, say) as context:
            record, _ = await context.records.read()
            try:
                return record, context.registry.versions()
            except StoreDownError as error:
                return record, error

    record, found = asyncio.run(read())
    if isinstance(found, StoreDownError):
        serving = (
            f"version {record.current.version} serves (epoch {record.epoch})"
            if record.current
            else "no model serves"
        )
        notices.print(
            f"The registry is away; by the serving record {serving}. `fraudops rollback` works without it."
        )
        raise found
    versions = [describe(version, record) for version in found]
    if as_json:
        print_json({"model": settings.model_name, "epoch": record.epoch, "versions": versions})
    elif not versions:
        output.print("No version is registered yet. Train one: fraudops train")
    else:
        print_table(output, _table(versions))


def _table(versions: list[dict[str, Any]]) -> Table:
    table = Table(
        "version", "created", "digest", "verdict", "aliases", "serves", box=None, pad_edge=False
    )
    for row in versions:
        serves = (
            "[bold green]yes[/]"
            if row["serving"]
            else (f"{row['back']} back" if row["back"] else "")
        )
        digest = (row["digest"] or "no bundle")[:12]
        table.add_row(
            row["version"],
            row["created_at"][:19].replace("T", " "),
            digest,
            row["verdict"],
            ", ".join(row["aliases"]),
            serves,
        )
    return table


if __name__ == "__main__":
    run(command)
