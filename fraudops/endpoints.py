"""URLs of the parts of a running product.

An environment variable has precedence over the file that `fraudops up` writes to the state folder.
"""

import os

import msgspec

from fraudops.errors import SettingsError
from fraudops.state import State


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `up.json`, which the supervisor writes.

    `database_url` contains a password, so only the file's owner may read it.
    """

    inference_url: str
    database_url: str
    mlflow_url: str


def read(state: State) -> Endpoints:
    """Read `up.json`. Raises SettingsError when it is missing or malformed."""
    try:
        return msgspec.json.decode(state.endpoints.read_bytes(), type=Endpoints)
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"no running fraudops found in {state.root}: "
            "run `fraudops up --detach`, or give --state FOLDER"
        ) from error


def find_endpoint(state: State, variable: str, field: str) -> str:
    """Return the value of the environment variable, or else the field of `up.json`.

    Raises SettingsError when both are missing.
    """
    value = os.environ.get(variable)
    if value:
        return value
    try:
        return str(getattr(read(state), field))
    except SettingsError as error:
        raise SettingsError(f"{error}, or set {variable}") from error


def database_url(state: State) -> str:
    return find_endpoint(state, "DATABASE_URL", "database_url")


def mlflow_url(state: State) -> str:
    return find_endpoint(state, "MLFLOW_TRACKING_URI", "mlflow_url")


def inference_url(state: State) -> str:
    return find_endpoint(state, "FRAUDOPS_URL", "inference_url")
