"""`fraudops api-keys`: make, list and remove the API keys of the service's clients.

The file has only the hashes of the keys. In a cluster it is the content of a Secret.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from rich.table import Table

from fraudops.api_keys import (
    NAME,
    ApiKey,
    Scope,
    digest_of,
    new_api_key,
    read_api_keys,
    write_api_keys,
)
from fraudops.errors import SettingsError
from fraudops.files import locked
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.runner import json_option, notices, output, print_json, run, state_option

file_option = click.option(
    "--file",
    type=click.Path(path_type=Path),
    envvar="FRAUDOPS_CLIENT_AUTH__KEYS_FILE",
    metavar="FILE",
    help="The file of the keys. [env: FRAUDOPS_CLIENT_AUTH__KEYS_FILE; default: client-keys.json "
    "in the state folder]",
)
MIN_ID = 4


def _instant(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    """Return the time, in UTC if it names no time zone."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter("give a date or a time, such as 2027-01-31") from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    if time <= datetime.now(UTC):
        raise click.BadParameter("it has passed")
    return time


def _client(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    if name is not None and not NAME.fullmatch(name):
        raise click.BadParameter("a name has 1 to 64 letters, digits, and . _ : -")
    return name


def _rate(_context: click.Context, _option: click.Parameter, rate: float | None) -> float | None:
    # JSON has no number for the two others.
    if rate is not None and not math.isfinite(rate):
        raise click.BadParameter("give a number")
    return rate


@click.group(name="api-keys", help="Make, list and remove the API keys of the service's clients.")
def command() -> None:
    pass


@command.command(name="new")
@click.option(
    "--client",
    required=True,
    callback=_client,
    metavar="NAME",
    help="The client, as the audit names it. It may have several keys.",
)
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    type=click.Choice(get_args(Scope)),
    help="What the key allows. Give it once for each scope.",
)
@click.option(
    "--expires",
    callback=_instant,
    metavar="DATE",
    help="When the key ends: a date, which is its start in UTC, or a time. [default: never]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    callback=_rate,
    metavar="N",
    help="Transactions a second in each worker. [default: that of the service]",
)
@file_option
@json_option
@state_option
def new(
    client: str,
    scopes: tuple[Scope, ...],
    expires: datetime | None,
    rate: float | None,
    file: Path | None,
    as_json: bool,
    state: State,
) -> None:
    """Make a key, and print it once. The file gets only its hash."""
    path = _path(file, state)
    key = new_api_key()
    entry = ApiKey(
        name=client,
        sha256=digest_of(key).hex(),
        scopes=tuple(dict.fromkeys(scopes)),
        expires=expires,
        rate_per_second=rate,
    )
    _change(path, lambda keys: [*keys, entry])
    if as_json:
        print_json({"key": key, "file": str(path), **_shown(entry)})
        return
    # Plain print: rich could wrap the key, or take a part of it for markup.
    print(key)
    notices.print(
        f"the key {entry.id} of {client} is in {path}, without the key itself: store the key now, "
        "because nothing shows it again. A running service reads the file within 5 s",
        markup=False,
    )


@command.command(name="list")
@file_option
@json_option
@state_option
def list_keys(file: Path | None, as_json: bool, state: State) -> None:
    """List the keys by the start of their hash."""
    path = _path(file, state)
    keys = _keys_of(path)
    if as_json:
        print_json([_shown(key) for key in keys])
        return
    if not keys:
        notices.print(f"{path} has no key: `fraudops api-keys new` makes one", markup=False)
        return
    table = Table("client", "key", "scopes", "expires", "rate", box=None, pad_edge=False)
    for key in keys:
        shown = key.expires.isoformat(timespec="minutes") if key.expires else "never"
        expired = key.expires is not None and key.expires <= datetime.now(UTC)
        table.add_row(
            key.name,
            key.id,
            " ".join(key.scopes),
            f"[red]expired {shown}[/]" if expired else shown,
            "" if key.rate_per_second is None else f"{key.rate_per_second:g}",
        )
    print_table(output, table)


@command.command(name="remove")
@click.argument("key", metavar="[ID]", required=False)
@click.option("--client", callback=_client, metavar="NAME", help="Remove all keys of a client.")
@file_option
@state_option
def remove(key: str | None, client: str | None, file: Path | None, state: State) -> str:
    """Remove a key by the start of its hash, as `list` shows it, or all keys of a client.

    A running service refuses them within 5 s.
    """
    if (key is None) == (client is None):
        raise SettingsError("give either the ID of a key or --client")
    removed: list[ApiKey] = []

    def without(keys: list[ApiKey]) -> list[ApiKey]:
        removed.extend(each for each in keys if _fits(each, key, client))
        if not removed:
            raise SettingsError("there is no such key: `fraudops api-keys list` shows all")
        if key is not None and len(removed) > 1:
            raise SettingsError("several keys begin so: give more of the ID")
        return [each for each in keys if each not in removed]

    _change(_path(file, state), without)
    line = ", ".join(f"{each.id} of {each.name}" for each in removed) + ": removed"
    output.print(line, markup=False)
    return line


def _fits(key: ApiKey, start: str | None, client: str | None) -> bool:
    if start is None:
        return key.name == client
    return len(start) >= MIN_ID and key.sha256.startswith(start.lower())


def _path(file: Path | None, state: State) -> Path:
    return (file or state.client_keys).absolute()


def _keys_of(path: Path) -> list[ApiKey]:
    """Return the keys of the file, or none if there is no file. Raises SettingsError."""
    return list(read_api_keys(path).values()) if path.exists() else []


def _change(path: Path, change: Callable[[list[ApiKey]], list[ApiKey]]) -> None:
    """Replace the keys of the file, which may not exist yet. Raises SettingsError."""
    try:
        with locked(path.with_name(f".{path.name}.lock")):
            write_api_keys(path, change(_keys_of(path)))
    except OSError as error:
        raise SettingsError(f"the API keys {path} cannot be written: {error.strerror}") from None


def _shown(key: ApiKey) -> dict[str, Any]:
    """Return what may be shown of a key."""
    return {
        "client": key.name,
        "id": key.id,
        "scopes": list(key.scopes),
        "expires": msgspec.to_builtins(key.expires),
        "rate_per_second": key.rate_per_second,
    }


if __name__ == "__main__":
    run(command)
