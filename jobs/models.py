"""`fraudops models`: the versions of the registry and which of them serves.

Versions that the serving record names and that the registry no longer has are listed too.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from fraudops.errors import StoreDownError
from fraudops.promotion.serving_record import UNSIGNED, ServingEntry, ServingRecord
from fraudops.registry import ModelVersion
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.terminal import print_table
from fraudops.wiring import open_promotion_context
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, notices, output, print_json, run, say, state_option, warn


def verdict_of(version: ModelVersion) -> str:
    """Return `passed`, `refused`, `stale` (the verdict of another bundle) or `none`.

    This is what the registry's tag shows. No signature proves it: see `fraudops verify`.
    """
    if version.verdict is None:
        return "none"
    if version.verdict.get("digest") != version.digest:
        return "stale"
    return "passed" if version.verdict.get("passed") else "refused"


def steps_back(record: ServingRecord) -> list[ServingEntry]:
    """Return the entries that repeated rollbacks lead to, the first rollback's first."""
    steps, serving = list[ServingEntry](), record.current
    for entry in record.stack:
        # A rollback skips the model that serves.
        if not entry.is_same_model(serving):
            steps.append(entry)
            serving = entry
    return steps


def describe_all(versions: Sequence[ModelVersion], record: ServingRecord) -> list[dict[str, Any]]:
    """Return the objects that `--json` prints: all versions, the newest first.

    A version that the record names and that the registry no longer has is `deleted`. `back` is
    the number of rollbacks that lead to the version, or None. The verdict is `waived` if the
    version serves, or served last, by a waiver, and `unsigned, from before` if release 0.2.0
    promoted it.
    """
    steps = steps_back(record)
    # The newest entry of a version is the first one here.
    entries = dict[str, ServingEntry]()
    for entry in (record.current, *record.stack):
        if entry:
            entries.setdefault(entry.version, entry)
    known = {version.version for version in versions}
    rows = [_describe(version, entries.get(version.version)) for version in versions]
    rows += [_describe_deleted(entry) for name, entry in entries.items() if name not in known]
    places = {entry.version: number for number, entry in reversed([*enumerate(steps, start=1)])}
    for row in rows:
        row["serving"] = bool(record.current and record.current.version == row["version"])
        row["back"] = places.get(row["version"])
    return sorted(rows, key=lambda row: int(row["version"]), reverse=True)


def _verdict_of_entry(entry: ServingEntry) -> str:
    if entry.unsigned:
        return UNSIGNED
    return "waived" if entry.waiver else "passed"


def _describe(version: ModelVersion, entry: ServingEntry | None) -> dict[str, Any]:
    verdict = verdict_of(version)
    if entry and entry.digest == version.digest and (entry.waiver or entry.unsigned):
        verdict = _verdict_of_entry(entry)
    return {
        "version": version.version,
        "created_at": version.created_at,
        "digest": version.digest,
        "verdict": verdict,
        "aliases": list(version.aliases),
        "deleted": False,
    }


def _describe_deleted(entry: ServingEntry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "created_at": None,
        "digest": entry.digest,
        "verdict": _verdict_of_entry(entry),
        "aliases": [],
        "deleted": True,
    }


async def _read(
    settings: PromoteJobSettings, state: State
) -> tuple[ServingRecord, list[ModelVersion] | StoreDownError]:
    """Return the serving record, and the versions or the registry's error."""
    async with open_promotion_context(settings, state, say) as context:
        record, _ = await context.ports.records.read()
        try:
            return record, await asyncio.to_thread(context.registry.versions)
        except StoreDownError as error:
            return record, error


@on_cluster("promote", "jobs.models")
@click.command(name="models")
@json_option
@state_option
def command(as_json: bool, state: State) -> None:
    """List versions with aliases, verdicts and the number of rollbacks that lead to each.

    The verdict is the one that MLflow shows, which any of its users can change. `fraudops verify`
    says what was signed.
    """
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
    rows = describe_all(versions, record)
    if as_json:
        print_json(
            {
                "model": settings.model_name,
                "epoch": record.epoch,
                "alias": record.alias_error,
                "versions": rows,
            }
        )
    elif not rows:
        output.print("No version is registered yet. Train one: fraudops train")
    else:
        print_table(output, _table(rows))
    if record.alias_error and not as_json:
        warn(f"alias: {record.alias_error}")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "version", "created", "digest", "verdict", "aliases", "serves", box=None, pad_edge=False
    )
    for row in rows:
        back = f"{row['back']} back" if row["back"] else ""
        table.add_row(
            row["version"],
            "(deleted)" if row["deleted"] else row["created_at"][:19].replace("T", " "),
            escape((row["digest"] or "no bundle")[:12]),
            row["verdict"],
            ", ".join(row["aliases"]),
            "[bold green]yes[/]" if row["serving"] else back,
        )
    return table


if __name__ == "__main__":
    run(command)
