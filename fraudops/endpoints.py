"""Where the parts of a running product answer: from the environment, else from what `up` wrote into
the state folder.
"""

import os

import msgspec

from fraudops.errors import SettingsError
from fraudops.state import State


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """`up.json`, written whole by the supervisor and renamed into place;

    `database_url` carries its password, so the file is 0600.
    """

    inference_url: str
    database_url: str
    mlflow_url: str


def read(state: State) -> Endpoints:
    """What `up` wrote. Raises SettingsError when it never did."""
    try:
        return msgspec.json.decode(state.endpoints.read_bytes(), type=Endpoints)
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"nothing is known of a running fraudops in {state.root}: run `fraudops up --detach`, or give --state FOLDER"
        ) from error


def find_endpoint(state: State, variable: str, field: str) -> str:
    """The value of the environment variable, else the field of `up.json`.

    Raises SettingsError when there is neither.
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
