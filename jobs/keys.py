"""`fraudops keys`: list, replace and retire the keys that sign verdicts and waivers.

On one machine the keys are files in the state folder. With `--on-cluster` they are Secrets of the
release, and the command reads and changes them with the rights of your kubeconfig.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, get_args

import click
from rich.table import Table

from fraudops.errors import SettingsError
from fraudops.promotion.local import FileRecordStore, LocalRecords
from fraudops.promotion.ports import Records
from fraudops.settings import ValidateJobSettings
from fraudops.signing.folder import FolderKeys
from fraudops.signing.key_list import KeyEntry, key_to_retire
from fraudops.signing.keys import PublicKey, PublicKeys, Purpose, short
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.key_use import check_use
from jobs.on_cluster import cluster_options, refuse_cluster_options
from jobs.runner import (
    json_option,
    notices,
    output,
    print_json,
    run,
    state_option,
    target_options,
    warn,
)

# Not a Job: the command itself changes the Secrets.
place_options = [
    click.Option(
        ["--on-cluster"],
        is_flag=True,
        help="Use the Secrets of a release, through your kubeconfig.",
    ),
    *cluster_options[1:],
]
purpose_argument = click.argument("purpose", type=click.Choice(get_args(Purpose)))


class Keys(Protocol):
    """The keys of an installation, on one machine or in a cluster."""

    async def list(self) -> list[KeyEntry]: ...

    async def trusted(self) -> PublicKeys: ...

    async def rotate(self, purpose: Purpose) -> PublicKey: ...

    async def retire(self, entry: KeyEntry) -> None: ...


@dataclass(frozen=True)
class KeyPlace:
    """The keys of an installation, and its serving record."""

    keys: Keys
    records: Records


@asynccontextmanager
async def open_keys(
    on_cluster: bool, release: str | None, namespace: str | None, state: State
) -> AsyncIterator[KeyPlace]:
    """Yield the keys of this machine or of a release. Raises SettingsError if there is none."""
    if not on_cluster:
        refuse_cluster_options()
        signing = ValidateJobSettings.from_environment().signing
        private: dict[Purpose, Any] = {
            "verdict": signing.verdict_key_of(state),
            "waiver": signing.waiver_key_of(state),
        }
        folder = signing.public_keys_of(state)
        if not folder.is_dir():
            raise SettingsError(
                f"{folder} does not exist: give --state FOLDER. `fraudops up` makes the keys when "
                "it starts the product; stop a running one with `fraudops down` before"
            )
        records = LocalRecords(FileRecordStore(state.serving_record))
        yield KeyPlace(FolderKeys(private, folder), records)
        return
    from fraudops.cluster.api import Cluster
    from fraudops.cluster.keys import ClusterKeys
    from fraudops.cluster.records import ConfigMapRecords
    from fraudops.cluster.runner import find_release

    async with Cluster.connect(namespace) as cluster:
        found = await find_release(cluster, release)
        keys = await ClusterKeys.of(cluster, found)
        yield KeyPlace(keys, ConfigMapRecords(cluster, found))


async def _list(place: dict[str, Any]) -> list[KeyEntry]:
    async with open_keys(**place) as opened:
        return await opened.keys.list()


async def _rotate(place: dict[str, Any], purpose: Purpose) -> tuple[list[KeyEntry], PublicKey]:
    async with open_keys(**place) as opened:
        keys = opened.keys
        try:
            before = await keys.list()
        except SettingsError as error:
            # A damaged key is a reason to make a new one.
            warn(str(error))
            before = []
        return before, await keys.rotate(purpose)


async def _retire(place: dict[str, Any], start: str, leaked: bool) -> KeyEntry:
    async with open_keys(**place) as opened:
        retired = key_to_retire(await opened.keys.list(), start)
        trusted = await opened.keys.trusted()
        await check_use(opened.records, trusted, retired[0], _options(place), leaked)
        for entry in retired:
            await opened.keys.retire(entry)
    return retired[0]


def _options(place: dict[str, Any]) -> str:
    """Return the options that make a suggested command act on the same installation."""
    return " --on-cluster" if place["on_cluster"] else target_options(place["state"])


@click.group(help="List, rotate and retire the keys that sign verdicts and waivers.")
def command() -> None:
    pass


@command.command(name="list", params=list(place_options))
@json_option
@state_option
def list_keys(as_json: bool, **place: Any) -> None:
    """List the valid keys, and mark the ones that sign now."""
    known = asyncio.run(_list(place))
    if as_json:
        print_json([asdict(entry) for entry in known])
        return
    table = Table("purpose", "key", "file", "", box=None, pad_edge=False)
    for entry in known:
        remark = "signs now" if entry.signs else ""
        # Without a public half every signature of the key is refused.
        remark = remark if entry.file else "[red]signs now, is not valid[/]"
        table.add_row(entry.purpose, short(entry.id), entry.file, remark)
    print_table(output, table)
    signing = {entry.purpose for entry in known if entry.signs}
    for purpose in {entry.purpose: None for entry in known if entry.purpose not in signing}:
        warn(
            f"no key signs a {purpose} now: if its private key is lost, make a new one with "
            f"`fraudops keys rotate {purpose}{_options(place)}`"
        )


@command.command(name="rotate", params=list(place_options))
@purpose_argument
@state_option
def rotate(purpose: Purpose, **place: Any) -> str:
    """Make a new key that signs from now on. The old public key stays valid until `retire`."""
    before, key = asyncio.run(_rotate(place, purpose))
    line = f"the {purpose} key {short(key.id)} signs from now on"
    output.print(line, markup=False)
    old = [short(entry.id) for entry in before if entry.purpose == purpose and entry.signs]
    if old:
        notices.print(
            f"the key {old[0]} stays valid. When no {purpose} that it signed is needed any more: "
            f"`fraudops keys retire {old[0]}{_options(place)}`",
            markup=False,
        )
    if place["on_cluster"]:
        # Kubelet brings a changed Secret into running pods within its sync period and cache time.
        notices.print(
            "pods that run read the new public key within two minutes; until then they refuse "
            "what it signs",
            markup=False,
        )
    return line


@command.command(name="retire", params=list(place_options))
@click.argument("key", metavar="ID")
@click.option(
    "--leaked",
    is_flag=True,
    help="Retire the key although production needs it, or although the serving record cannot be "
    "read. Only for a private key that has leaked.",
)
@state_option
def retire(key: str, leaked: bool, **place: Any) -> str:
    """Remove a public key by the start of its id.

    What it has signed is refused from then on, also by pods that start. The command is refused
    (exit code 65) while the version that serves needs the key, or the version that a rollback goes
    back to. First validate and promote them again. If the serving record cannot be read, it exits
    with 75.
    """
    entry = asyncio.run(_retire(place, key, leaked))
    line = f"the {entry.purpose} key {short(entry.id)} is retired: what it signed is refused"
    output.print(line, markup=False)
    return line


if __name__ == "__main__":
    run(command)
